"""What `toolchain bench` does, callable from Python with the same arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.errors import RecipeError
from toolchain.files import deliver

if TYPE_CHECKING:
    from rich.table import Table

    from toolchain.steps.benching import Entry

DEFAULT_SIZE = 224  # pixels of a side, for an engine that leaves them open
PLAIN_WIDTH = 140  # columns where stdout is no terminal


def run_bench(
    files: Sequence[str], runtimes: Sequence[str] = ("onnxruntime",), *, batch: int = 1, threads: int | None = None,
    warmup: int = 20, rounds: int = 20, runs: int = 20, attempts: int = 2, size: int | None = None,
    json_file: Path | None = None, on: str | None = None, devices: Path | None = None,
) -> list[dict[str, Any]]:
    """Time `files` side by side, print the table, and return its rows: of `measure.bench.bench`, with path and SHA-256.

    size: pixels of a side, where an ONNX file leaves them open. on: a device of the file `devices` (None: the usual
    one) that times them; None: this machine does. Raises RecipeError, EngineError, DigestMismatch, MissingPackage,
    WorkDirError, DeviceError.
    """
    from rich.console import Console

    from toolchain.engines.cpu import cores
    from toolchain.steps.benching import find_entries

    if on is None and threads and threads > cores():
        raise RecipeError(f"--threads: found {threads}, but this process has {cores()} cores; more threads than cores "
                          f"wait for each other; expected 1 to {cores()}")
    entries = find_entries(files, runtimes if on is None else runtimes[:1], here=on is None)
    sized = _of_open_size(entries, size)
    how = {"batch": batch, "warmup": warmup, "rounds": rounds, "runs": runs, "attempts": attempts,
           "size": size or DEFAULT_SIZE}
    found = _here(entries, how, threads) if on is None else _there(entries, how, threads, on, devices)
    rows = found["rows"]
    for row, entry in zip(rows, entries, strict=True):
        row |= {"path": entry.path.as_posix(), "runtime": row.get("runtime", entry.runtime), "sha256": entry.sha256}
    if json_file:
        facts = {"schema_version": 1, **found, "batch": batch, "rounds": rounds, "runs_per_round": runs, "rows": rows}
        deliver(json_file, json.dumps(facts, indent=1) + "\n")
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)
    console.print(_table(rows))
    place = f"on {on} ({_machine(found['environment'])}), " if on else ""
    console.print("\n" + place + _told(rows, found["threads"], batch, rounds, runs), soft_wrap=True)
    if sized:
        console.print(f"timed at {size} x {size} pixels, as --image-size says: {', '.join(sized)}", soft_wrap=True)
    return rows


def _of_open_size(entries: Sequence[Entry], size: int | None) -> list[str]:
    """Names of the ONNX files that leave the size of their images open. Raises RecipeError where none was given."""
    from toolchain.steps.benching import open_sides

    names = [entry.name for entry in entries if entry.path.is_file() and open_sides(entry.path)]
    if names and size is None:
        raise RecipeError(f"{names[0]}: leaves the height and width of its images open; say at which size to time it: "
                          "--image-size PIXELS")
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
    entries: Sequence[Entry], how: Mapping[str, int], threads: int | None, name: str, file: Path | None
) -> dict[str, Any]:
    from toolchain.devices.bench import Timed, bench
    from toolchain.devices.file import chosen, devices_file
    from toolchain.devices.many import one
    from toolchain.engines.record import verify
    from toolchain.steps.benching import weight_files

    def timed(entry: Entry) -> Timed:
        if entry.path.is_file():
            if beside := weight_files(entry.path):
                raise RecipeError(f"{entry.name}: keeps weights in {', '.join(file.name for file in beside)}, and a "
                                  f"device is sent one file; {_one_file(entry.path)}")
            return Timed(entry.name, entry.path, entry.sha256)
        record, engine = verify(entry.path)
        return Timed(entry.name, engine, record.sha256, record)

    device = chosen(devices_file(file), [name])[name]
    files = [timed(entry) for entry in entries]
    return {"device": name, **one(name, device, lambda link: bench(link, files, {**how, "seed": 0}, threads))}


def _one_file(path: Path) -> str:
    whole = path.with_name(f"{path.stem}_whole.onnx").as_posix()
    return f"""make one of it: python -c "import onnx; onnx.save(onnx.load('{path.as_posix()}'), '{whole}')\""""


def _machine(facts: Mapping[str, Any]) -> str:
    """What a device computes on, as its probe tells it."""
    power = f", {facts['power_mode']}" if facts["power_mode"] else ""
    return f"{(facts['gpu'] or {}).get('name') or facts['cpu']}{power}"


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("file", overflow="fold")
    energy = any(row["energy"] for row in rows)
    for title in ("input", "p50 ms", "std", "p10", "p99", "speed (95 %)", "images/s", *["mJ"] * energy, ""):
        table.add_column(title, justify="right" if title else "left", no_wrap=bool(title))
    for row in rows:
        ms, ratio = row["latency_ms"], row["ratio"]
        against = f"{ratio['value']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else "1"
        table.add_row(row["name"], "x".join(map(str, row["input"])), f"{ms['p50']:.4g}", f"{ms['std']:.2g}",
                      f"{ms['p10']:.4g}", f"{ms['p99']:.4g}", against, f"{row['images_per_s']:,.0f}",
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
