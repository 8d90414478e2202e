"""Latency from where to where, what an image costs, and how the machine stood: here, and on every device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from toolchain.report.part import Energy, Latency
from toolchain.report.validity import mark
from toolchain.report.words import NOTHING, milliseconds

if TYPE_CHECKING:
    from toolchain.report.devices import DeviceEngine
    from toolchain.report.schema import EngineResult, Report

HEADING = "Latency, from where to where"
INTRO = ("Device only: one batch lies in the memory of the GPU or CPU already, and so do its logits. With transfers: "
         "from an array of the host to its logits there. End to end: from pixels of the right size to a class, "
         "normalization included; reading and resizing the picture is not. p50 of each.")
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
    return [[name, *((milliseconds(ms.p50) + doubt) if ms else NOTHING for ms in latencies),
             *([f"{energy.millijoules:.3g}" if energy else NOTHING] if some else [])]
            for name, latencies, energy, doubt in timed]


def conditions(report: Report) -> list[str]:
    """Sentences on how each machine stood while it was timed, and on what counted its energy."""
    here: dict[str, Any] = {}
    for engine in report.engines:  # those on a GPU tell more
        here.update(engine.machine_settings or {})
    stood = {"This machine": here, **{one.name: one.machine_settings or {} for one in report.devices}}
    found = [f"{name} while engines were timed: {told}." for name, facts in stood.items() if (told := _settings(facts))]
    counters = dict.fromkeys(energy.counter for _, _, energy, _ in _timed(report) if energy)
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
