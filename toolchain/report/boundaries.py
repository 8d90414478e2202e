"""Latency from where to where, what an image costs, and how the machine stood: here, and on every device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from toolchain.report.part import Energy, Latency
from toolchain.report.validity import MARK, mark
from toolchain.report.words import NOTHING, milliseconds

if TYPE_CHECKING:
    from toolchain.report.devices import DeviceEngine
    from toolchain.report.schema import EngineResult, Report

HEADING = "Latency, from where to where"
INTRO = ("Device only: one batch lies in the memory of the GPU or CPU already, and so do its logits. With transfers: "
         "from an array of the host to its logits there. End to end: from pixels of the right size to a class, "
         "normalization included; reading and resizing the picture is not. p50 of each.")
WITHIN = 0.9  # with transfers over device only: what is this near may be noise, as LARGEST_DRIFT of the runner says
TITLES = ("Engine", "Device only, ms", "With transfers, ms", "End to end, ms")
COSTS = "mJ an image"
NAMES = {"power_mode": "power mode {}", "governor": "governor {}", "fixed_clocks": "{} clocks", "mhz": "CPU at {} MHz",
         "gpu_mhz": "GPU at {} MHz", "gpu_memory_mhz": "GPU memory at {} MHz", "celsius": "{:g} °C",
         "gpu_celsius": "GPU at {} °C", "gpu_watts": "GPU at {:g} W", "load": "load {:g}"}


def titles(report: Report) -> list[str]:
    """Of the columns; energy has none where nothing was counted."""
    return [*TITLES, *([COSTS] if _counted(report) else [])]


def rows(report: Report) -> list[list[str]]:
    """A row for each engine that was timed, on this machine and then on devices, as "orin: int8"."""
    some, timed = _counted(report), list(_timed(report))
    return [[name, *((milliseconds(ms.p50) + (doubt or MARK * _reversed(latencies))) if ms else NOTHING
                     for ms in latencies),
             *([f"{energy.millijoules:.3g}" if energy else NOTHING] if some else [])]
            for name, latencies, energy, doubt in timed]


def _reversed(latencies: Sequence[Latency | None]) -> bool:
    """Whether the part took longer than the whole, beyond noise: with transfers is device only, and copies."""
    inner, outer = latencies[:2]
    return inner is not None and outer is not None and outer.p50 < WITHIN * inner.p50


def _disorder(report: Report) -> list[str]:
    """A sentence on the engines whose latencies stand in an order that cannot be."""
    found = [f"{name} ({milliseconds(ms[1].p50)} against {milliseconds(ms[0].p50)} ms)"
             for name, ms, _, _ in _timed(report) if _reversed(ms) and ms[0] and ms[1]]
    return [f"With transfers is below device only, which cannot be, for {', '.join(found)}: device only is timed in "
            "rounds in which the engines alternate, with transfers after them in one burst of each engine, so caches "
            "were warmer there, or the machine less busy. Neither can be relied on until measured again on a quiet "
            "machine; on a CPU nothing is copied, and the two are one figure."] if found else []


def conditions(report: Report) -> list[str]:
    """Sentences on how each machine stood while it was timed, and on what counted its energy."""
    here: dict[str, Any] = {}
    for engine in report.engines:  # those on a GPU tell more
        here.update(engine.machine_settings or {})
    stood = {"This machine": here, **{one.name: one.machine_settings or {} for one in report.devices}}
    found = [f"{name} while engines were timed: {told}." for name, facts in stood.items() if (told := _settings(facts))]
    counters = dict.fromkeys(energy.counter for _, _, energy, _ in _timed(report) if energy)
    found += _disorder(report)
    return [*found, f"Energy, idle power included, was counted by {', '.join(counters)}." if counters else
            "Energy was not measured: no counter that may be read."]


def _settings(facts: Mapping[str, Any]) -> str:
    words = {True: "fixed", False: "free"}
    return ", ".join(form.format(words.get(facts[name], facts[name]) if name == "fixed_clocks" else facts[name])
                     for name, form in NAMES.items() if name in facts)


def _counted(report: Report) -> bool:
    return any(energy for _, _, energy, _ in _timed(report))


def _timed(report: Report) -> Iterator[tuple[str, tuple[Latency | None, ...], Energy | None, str]]:
    """Name, latencies, energy and mark of doubt of each engine that was timed."""
    here: list[tuple[str, EngineResult | DeviceEngine]] = [(e.name, e) for e in (*report.engines, *report.unpruned)]
    there = [(f"{one.name}: {made.name}", made) for one in report.devices for made in one.engines]
    for name, engine in [*here, *there]:
        if engine.latency_ms:
            yield (name, (engine.latency_ms, engine.with_transfers_ms, engine.end_to_end_ms), engine.energy,
                   mark(engine))
