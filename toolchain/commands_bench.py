"""What `toolchain bench` does, callable from Python with the same arguments."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.errors import RecipeError, ToolchainError
from toolchain.files import deliver, json_with, refuse_other
from toolchain.runner.probe import RUNTIMES

if TYPE_CHECKING:
    from rich.table import Table

    from toolchain.steps.benching import Entry

DEFAULT_SIZE = 224  # pixels of a side, for an engine that leaves them open
ENGINE_ONNX = "engine.onnx"  # in the folder of an engine that is one
PLAIN_WIDTH = 140  # columns where stdout is no terminal


def run_bench(
    files: Sequence[str], runtimes: Sequence[str] | None = None, *, batch: int = 1, threads: int | None = None,
    warmup: int = 20, rounds: int = 20, runs: int = 20, attempts: int = 2, size: int | None = None,
    json_file: Path | None = None, on: Sequence[str] = (), devices: Path | None = None,
) -> list[dict[str, Any]]:
    """Time `files` side by side, print the table, and return its rows: of `measure.bench.bench`, with path and SHA-256.

    runtimes: of ONNX files; None: onnxruntime here, and what a device has for them there. size: pixels of a side, where
    an ONNX file leaves them open. on: devices of the file `devices` (None: the usual one) that time them, a table each;
    none: this machine does. Raises RecipeError, EngineError, DigestMismatch, MissingPackage, WorkDirError, DeviceError
    (some of several devices failed; the others are shown).
    """
    from toolchain.devices.many import refuse_failed
    from toolchain.engines.cpu import cores
    from toolchain.steps.benching import find_entries

    if json_file:
        refuse_other(json_file, "figures of `bench` in JSON", _of_bench)
    if not on and threads and threads > cores():
        raise RecipeError(f"--threads: found {threads}, but this process has {cores()} cores; more threads than cores "
                          f"wait for each other; expected 1 to {cores()}")
    if on and (wrong := next((name for name in runtimes or () if name not in RUNTIMES), None)):
        raise RecipeError(f"--runtime: found '{wrong}', but on a device ONNX files are run by {' or '.join(RUNTIMES)}")
    entries = find_entries(files, runtimes or ("onnxruntime",), here=not on)
    sized = _of_open_size(entries, size)
    how = {"batch": batch, "warmup": warmup, "rounds": rounds, "runs": runs, "attempts": attempts,
           "size": size or DEFAULT_SIZE}
    found: Mapping[str, Any] = {"": _here(entries, how, threads)} if not on else _there(
        entries, how, threads, dict.fromkeys(on), devices, chosen=runtimes is not None)
    done = {name: told for name, told in found.items() if not isinstance(told, ToolchainError)}
    by_name = {entry.name: entry for entry in entries}
    for told in done.values():
        for row in told["rows"]:
            entry = by_name[row["name"]]
            row |= {"path": entry.path.as_posix(), "runtime": row.get("runtime", entry.runtime), "sha256": entry.sha256}
    facts = [{"schema_version": 1, **told, "batch": batch, "rounds": rounds, "runs_per_round": runs}
             for told in done.values()]
    if json_file and facts:
        content = facts[0] if len(found) == 1 else {"schema_version": 1, "devices": facts}
        deliver(json_file, json.dumps(content, indent=1) + "\n")
    of_onnx = any(entry.path.is_file() for entry in entries)  # what ran an engine is its own runtime
    for name, told in done.items():
        place = f"on {name} ({_machine(told['environment'])}), " if name else ""
        _show(told["rows"], of_onnx, place + _told(told["rows"], told["threads"], batch, rounds, runs))
    if sized and done:
        print(f"timed at {size} x {size} pixels, as --image-size says: {', '.join(sized)}")
    refuse_failed(found)
    return [row for told in done.values() for row in told["rows"]]


def _of_bench(content: bytes) -> bool:
    """Whether a file is what `json_file` was before: of one machine, or of several devices."""
    return json_with("rows", "runs_per_round")(content) or (
        json_with("schema_version", "devices")(content) and not json_with("recipe")(content))


def _show(rows: Sequence[dict[str, Any]], of_onnx: bool, told: str) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)
    console.print(_table(rows, of_onnx))
    console.print("\n" + told, soft_wrap=True)


def _of_open_size(entries: Sequence[Entry], size: int | None) -> list[str]:
    """Names of the ONNX files that leave the size of their images open.

    Raises RecipeError where none was given, and where one was that no file can be timed at.
    """
    from toolchain.graph.onnx_file import image_sides

    sides = {entry.name: image_sides(file) for entry in entries
             if (file := entry.path if entry.path.is_file() else entry.path / ENGINE_ONNX).is_file()}
    names = [entry.name for entry in entries if entry.path.is_file() and None in sides[entry.name]]
    if names and size is None:
        raise RecipeError(f"{names[0]}: leaves the height and width of its images open; say at which size to time it: "
                          "--image-size PIXELS")
    fixed = {name: found for name, found in sides.items() if found and None not in found}
    if size and len(fixed) == len(entries) and not any(found == [size, size] for found in fixed.values()):
        told = ", ".join(f"{name} takes {' x '.join(map(str, found))} pixels" for name, found in fixed.items())
        raise RecipeError(f"--image-size: found {size}, but {told} and no other size; leave it out")
    return names


def _here(entries: Sequence[Entry], how: Mapping[str, int], threads: int | None) -> dict[str, Any]:
    from toolchain.doctor import machine
    from toolchain.engines.cpu import default_threads
    from toolchain.measure.bench import Method, bench, refused_batch
    from toolchain.runner.conditions import settings
    from toolchain.steps.benching import opened

    method = Method(threads or default_threads(), **how)
    with opened(entries, method.threads, method.size) as engines:
        if why := refused_batch(engines, method.batch):
            raise RecipeError(why)
        rows = bench(engines, method)
    return {"environment": machine(), "settings": settings(), "threads": method.threads, "rows": rows}


def _there(
    entries: Sequence[Entry], how: Mapping[str, int], threads: int | None, names: Iterable[str], file: Path | None,
    chosen: bool,
) -> dict[str, dict[str, Any] | ToolchainError]:
    """What each device found, or why it failed; of a single one that failed its error is raised.

    chosen: the runtime of ONNX files is the user's choice.
    """
    from toolchain.devices import file as listed
    from toolchain.devices.bench import Timed, bench
    from toolchain.devices.many import each
    from toolchain.engines.record import verify
    from toolchain.steps.benching import weight_files

    def timed(entry: Entry) -> Timed:
        if entry.path.is_file():
            if beside := weight_files(entry.path):
                raise RecipeError(f"{entry.name}: keeps weights in {', '.join(file.name for file in beside)}, and a "
                                  f"device is sent one file; {_one_file(entry.path)}")
            return Timed(entry.name, entry.path, entry.sha256, runtime=entry.runtime if chosen else None)
        record, engine = verify(entry.path)
        return Timed(entry.name, engine, record.sha256, record, optional=entry.optional)

    devices = listed.chosen(listed.devices_file(file), names)
    files = [timed(entry) for entry in entries]
    found = each(devices, lambda link: bench(link, files, {**how, "seed": 0}, threads))
    told = {name: one if isinstance(one, ToolchainError) else {"device": name, **one} for name, one in found.items()}
    if len(told) == 1 and isinstance(error := next(iter(told.values())), ToolchainError):
        raise error
    return told


def _one_file(path: Path) -> str:
    whole = path.with_name(f"{path.stem}_whole.onnx").as_posix()
    return f"""make one of it: python -c "import onnx; onnx.save(onnx.load('{path.as_posix()}'), '{whole}')\""""


def _machine(facts: Mapping[str, Any]) -> str:
    """What a device computes on, as its probe tells it."""
    power = f", {facts['power_mode']}" if facts["power_mode"] else ""
    return f"{(facts['gpu'] or {}).get('name') or facts['cpu']}{power}"


def _table(rows: Sequence[dict[str, Any]], of_onnx: bool) -> Table:
    """of_onnx: with a column of what ran each file, which an .onnx file does not say."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("file", overflow="fold")
    if of_onnx:
        table.add_column("runtime", no_wrap=True)
    energy = any(row["energy"] for row in rows)
    for title in ("input", "p50 ms", "std", "p10", "p99", "speed (95 %)", "images/s", *["mJ"] * energy, ""):
        table.add_column(title, justify="right" if title else "left", no_wrap=bool(title))
    for row in rows:
        ms, ratio = row["latency_ms"], row["ratio"]
        images_per_s = f"{row['images_per_s']:,.0f}"
        against = f"{ratio['value']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else "1"
        table.add_row(row["name"], *[row["runtime"]] * of_onnx, "x".join(map(str, row["input"])), f"{ms['p50']:.4g}",
                      f"{ms['std']:.2g}", f"{ms['p10']:.4g}", f"{ms['p99']:.4g}", against, images_per_s,
                      *[f"{row['energy']['millijoules']:.3g}" if row["energy"] else "–"] * energy,
                      row["validity"]["verdict"])
    return table


def _told(rows: Sequence[dict[str, Any]], threads: int, batch: int, rounds: int, runs: int) -> str:
    causes: dict[str, list[str]] = {}
    for row in rows:
        for cause in row["validity"]["causes"]:
            causes.setdefault(cause, []).append(row["name"])
    how = (f"batch {batch}, {threads} CPU threads, {rounds} rounds of {runs} runs of each, in random order, on "
           "noise, device only (copies to a GPU and back are in --json); speed: the first file's latency over this "
           "one's, within rounds")
    if counters := dict.fromkeys(row["energy"]["counter"] for row in rows if row["energy"]):
        how += f"; mJ: of one image, idle power included, by {', '.join(counters)}"
    return how + "".join(f"\ninconclusive: {'' if len(names) == len(rows) else ', '.join(names) + ': '}{cause}"
                         for cause, names in causes.items())
