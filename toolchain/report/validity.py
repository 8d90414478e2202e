"""Which latencies can be trusted, and why the others cannot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from toolchain.report.part import Part

if TYPE_CHECKING:
    from toolchain.report.devices import DeviceEngine
    from toolchain.report.schema import EngineResult

NUMBER = re.compile(r"\d+(\.\d+)?")
MARK = " ?"  # after a latency that is inconclusive


class Validity(Part):
    """Whether a latency can be trusted."""

    verdict: Literal["valid", "inconclusive"]
    causes: list[str] = Field([], description="what was seen that speaks against it")
    attempts: int = Field(1, ge=1, description="measurements made; the last one counts")

    @model_validator(mode="after")
    def _inconclusive_says_why(self) -> Validity:
        if (self.verdict == "valid") == bool(self.causes):
            raise ValueError("a latency is inconclusive exactly where there are causes")
        return self


def mark(engine: EngineResult | DeviceEngine) -> str:
    """What stands after the engine's latency: ' ?' where it is inconclusive."""
    return MARK if engine.validity and engine.validity.verdict == "inconclusive" else ""


def told(engines: Sequence[EngineResult]) -> str | None:
    """One sentence on the engines whose latency is inconclusive; None where all are valid, or none was timed."""
    doubted = [e for e in engines if e.validity and e.validity.verdict == "inconclusive"]
    if not doubted:
        return None
    timed = sum(e.validity is not None for e in engines)
    whose = "of every engine" if len(doubted) == timed else "of " + ", ".join(e.name for e in doubted)
    causes = "; ".join(_worst([cause for e in doubted if e.validity for cause in e.validity.causes]))
    attempts = max(e.validity.attempts for e in doubted if e.validity)
    tries = f", after {attempts} measurements" if attempts > 1 else ""
    return (f"The latency {whose} is inconclusive{tries}: {causes}. Measure again on a quiet machine: "
            "toolchain build … --remeasure.")


def _worst(causes: Sequence[str]) -> list[str]:
    """Of causes that differ in a number alone, the one with the largest, 'up to' it."""
    kinds: dict[str, list[str]] = {}
    for cause in dict.fromkeys(causes):
        kinds.setdefault(NUMBER.sub("#", cause), []).append(cause)

    def size(cause: str) -> float:
        found = NUMBER.search(cause)
        return float(found.group()) if found else 0.0

    return [NUMBER.sub(r"up to \g<0>", max(same, key=size), count=1) if len(same) > 1 else same[0]
            for same in kinds.values()]
