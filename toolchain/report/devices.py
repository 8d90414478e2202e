"""What engines do on devices other than the one that built them, a row for each engine and device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from toolchain.report.part import Bytes, Energy, Latency, Part, Percent, Speedup
from toolchain.report.validity import Validity, mark

if TYPE_CHECKING:
    from toolchain.report.schema import EngineResult, Report

TITLES = ("Device", "Engine", "Top-1 %", "p50 ms", "Speed-up", "Engine file", "Golden answers")
NOTHING = "–"


class DeviceEngine(Part):
    """One engine as built, judged and timed on a device."""

    name: str
    built: bool
    reason: str | None = Field(None, description="why it could not be built there")
    sha256: str | None = None
    onnx_sha256: str | None = Field(None, description="of the file it was built from")
    engine_bytes: Bytes | None = None
    weight_bytes: Bytes | None = None
    runtime_version: str | None = None
    golden_held: bool | None = Field(None, description="it answers golden inputs as where it came from; null: none")
    golden_distance: float | None = Field(None, ge=0, description="|logits - golden| / |golden|")
    top1_percent: Percent | None = None
    top1_interval: tuple[Percent, Percent] | None = Field(None, description="95 %")
    latency_ms: Latency | None = Field(None, description="device only: one batch in its memory already, so are logits")
    with_transfers_ms: Latency | None = Field(None, description="from an array of the host to its logits there")
    end_to_end_ms: Latency | None = Field(None, description="from uint8 pixels of the right size to a class")
    energy: Energy | None = Field(None, description="null where the device has no counter that may be read")
    validity: Validity | None = None
    speedup_vs_fp32: Speedup | None = Field(None, description="over the FP32 engine of the same runtime there")

    @property
    def parts(self) -> tuple[str, str, str]:
        """Precision, runtime and target, which make up its name."""
        precision, _, place = self.name.partition(".")
        runtime, _, target = place.partition(".")
        return precision, runtime, target


class DeviceResult(Part):
    """One device, and the engines on it."""

    name: str
    machine: str | None = Field(None, description="processor, board or GPU")
    reason: str | None = Field(None, description="why there is nothing of it, or nothing of this build's")
    batch: int | None = Field(None, ge=1)
    threads: int | None = Field(None, ge=1, description="of a CPU engine")
    machine_settings: dict[str, Any] | None = Field(None, description="clocks, heat, power mode right after the timing")
    environment: dict[str, Any] | None = Field(None, description="what `device probe` tells: versions, GPU, JetPack")
    engines: list[DeviceEngine] = []
    left_out: dict[str, str] = Field({}, description="engine -> why it is not for this device")
    asked_sha256: str | None = Field(None, description="of test images and way of measuring, which must be the same")
    files: dict[str, str] = Field({}, description="SHA-256 of predictions.npz and latency.npz, as they came from there")


INTRO = "Built, judged on the test images and timed on the devices themselves."


def told(report: Report) -> list[str]:
    """Sentences on each device: its machine, what was left out, and what is to be doubted."""
    found = []
    for one in report.devices:
        if one.reason:
            found.append(f"{one.name}: {one.reason}." + (
                " Its figures are those of an earlier build of the same engines." if one.engines else ""))
        if not one.engines:
            continue
        found.append(f"{one.name}: {one.machine}, batch {one.batch}, {one.threads} CPU threads{_versions(one)}.")
        found += [f"{one.name}: {name} is left out: {why}." for name, why in one.left_out.items()]
        found += [f"{one.name}: {e.name} could not be built: {e.reason}." for e in one.engines if not e.built]
        doubted: dict[str, list[str]] = {}
        for engine in one.engines:
            if engine.validity and engine.validity.causes:
                doubted.setdefault("; ".join(engine.validity.causes), []).append(engine.name)
        found += [f"{one.name}: the latency of {', '.join(names)} is inconclusive: {causes}."
                  for causes, names in doubted.items()]
    return found


def _versions(one: DeviceResult) -> str:
    """', JetPack 6, tensorrt 10.3.0, Python 3.10.12': as far as it told."""
    facts = one.environment or {}
    words = [f"JetPack {facts['jetpack']}" if facts.get("jetpack") else "",
             *(f"{name} {version}" for name, version in (facts.get("runtimes") or {}).items()),
             f"Python {facts['python']}" if facts.get("python") else ""]
    return "".join(f", {word}" for word in words if word)


def rows(report: Report) -> list[list[str]]:
    """The cells of TITLES, a row for each engine on each device; intervals stand in parentheses."""
    return [row for one in report.devices for row in
            ([_row(one.name, engine) for engine in one.engines] or
             [[one.name, NOTHING, "no result", *[NOTHING] * (len(TITLES) - 3)]])]


def across(report: Report) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of a table with a row for each precision and a column for each device, this machine first: the
    fastest engine of each.
    """
    made: dict[str, Sequence[EngineResult | DeviceEngine]] = {
        "this machine": report.engines, **{one.name: one.engines for one in report.devices}}
    columns = {machine: {_of(e)[0]: _cell(e) for e in sorted(
        (e for e in engines if e.latency_ms), key=_p50, reverse=True)} for machine, engines in made.items()}
    precisions = dict.fromkeys(_of(e)[0] for engines in made.values() for e in engines)
    return ["Fastest engine", *columns], [
        [name.upper(), *(column.get(name, NOTHING) for column in columns.values())] for name in precisions]


def _of(engine: EngineResult | DeviceEngine) -> tuple[str, str]:
    """Its precision and runtime."""
    return engine.parts[:2] if isinstance(engine, DeviceEngine) else (engine.precision, engine.runtime)


def _p50(engine: EngineResult | DeviceEngine) -> float:
    return engine.latency_ms.p50 if engine.latency_ms else 0.0


def _cell(engine: EngineResult | DeviceEngine) -> str:
    from toolchain.report import words

    runtime = _of(engine)[1]
    told = [f"{words.milliseconds(_p50(engine))} ms{mark(engine)}", f"{words.percent(engine.top1_percent)} %",
            words.runtime_name(runtime) if runtime else ""]
    return ", ".join(word for word in told if word)


def _row(device: str, engine: DeviceEngine) -> list[str]:
    from toolchain.report import words  # which know the whole report, and so this part of it

    if not engine.built:
        return [device, engine.name, "not built", *[NOTHING] * (len(TITLES) - 3)]
    latency, speedup = engine.latency_ms, engine.speedup_vs_fp32
    golden = {True: "as here", False: "others", None: "none"}[engine.golden_held]
    distance = f" ({engine.golden_distance:.1e})" if engine.golden_distance is not None else ""
    return [device, engine.name, _with(words.percent(engine.top1_percent), words.interval(engine.top1_interval)),
            f"{words.milliseconds(latency.p50)} {words.spread(latency)}{mark(engine)}" if latency else NOTHING,
            _with(words.times(speedup.value if speedup else None), words.speedup_interval(speedup)),
            words.size(engine.engine_bytes), golden + distance]


def _with(figure: str, interval: str) -> str:
    return f"{figure} ({interval})" if interval else figure
