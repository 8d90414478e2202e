"""What the gate says of one quantity of one engine, and what it tolerates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from toolchain.check.paired import Outcome
from toolchain.errors import RecipeError

WORST = ("regression", "not enough evidence", "pass", "not judged")  # in this order


@dataclass(frozen=True)
class Tolerances:
    """margin_points: a drop of top-1 that must not pass unseen. alpha: the chance of a false alarm on accuracy in one
    run, over all its tests together; also of the latency's interval. beta: the chance that a drop of the margin passes.
    latency_percent: None does not judge it.
    """

    margin_points: float = 0.5
    alpha: float = 0.01
    beta: float = 0.1
    latency_percent: float | None = 10.0
    size_percent: float = 1.0
    memory_percent: float = 25.0  # peaks of one engine in several processes differ by up to a fifth: see docs/ci.md
    memory_mb: float = 4.0

    def __post_init__(self) -> None:
        wrong = [f"{option} {value:g}: expected {expected}" for option, value, expected, right in (
            ("--margin", self.margin_points, "above 0, at most 100", 0 < self.margin_points <= 100),
            ("--alpha", self.alpha, "1e-9 to 0.5", 1e-9 <= self.alpha < 0.5),
            ("--beta", self.beta, "1e-9 to 0.5", 1e-9 <= self.beta < 0.5),
            ("--latency", self.latency_percent or 0, "at least 0", (self.latency_percent or 0) >= 0),
            ("--size", self.size_percent, "at least 0", self.size_percent >= 0),
            ("--memory", self.memory_percent, "at least 0", self.memory_percent >= 0)) if not right]
        if wrong:
            raise RecipeError("; ".join(wrong))

    def told(self) -> str:
        """All of them in one line."""
        latency = "any" if self.latency_percent is None else f"{self.latency_percent:g} %"
        return (f"tolerated: drops of top-1 within chance that are surely below {self.margin_points:g} points (false "
                f"alarms in {100 * self.alpha:g} % of runs, drops so large missed in {100 * self.beta:g} %), latency "
                f"{latency}, size {self.size_percent:g} %, memory {self.memory_percent:g} % and {self.memory_mb:g} MB")


@dataclass(frozen=True)
class Finding:
    """engine, what: of whom and of which quantity. told: in words, with every figure. figures: for machines."""

    engine: str
    what: str
    outcome: Outcome
    told: str
    figures: dict[str, float | int | None] = field(default_factory=dict)

    def line(self) -> str:
        """One line that stands alone."""
        return f"{self.engine}: {self.what}: {self.told}"


def change(ratio: float) -> str:
    """'+12.5 %' of 1.125."""
    return f"{100 * (ratio - 1):+.1f} %" if ratio != 1 else "equal"


def overall(findings: Iterable[Finding]) -> Outcome:
    """The run's outcome: the worst there is; a run in which nothing was judged has no evidence."""
    found = {finding.outcome for finding in findings}
    worst: Outcome = next((outcome for outcome in WORST if outcome in found), "not judged")  # type: ignore[assignment]
    return "not enough evidence" if worst == "not judged" else worst
