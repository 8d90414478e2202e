"""Who decided what pruning removed, and after how much training it was judged: words for report.md and report.html.

Names stay as they are here, too: whoever prints them escapes them.
"""

from __future__ import annotations

from typing import NamedTuple

from toolchain.report.part import Speedup
from toolchain.report.pruned import Decided, Factorizing, Pruning
from toolchain.report.words import NOTHING, milliseconds, signed, speedup_interval, times

CHECK_TITLES = ("Check", "Predicted ms", "Measured ms", "Off by", "Unpruned ms", "Share", "")
FACTOR_HEADING = "Layers that were factorized, and those that were not"
FACTOR_TITLES = ("Layer", "Ranks", "Engine speed-up (95 %)", "Verdict")
SHOWN = 3  # names in one sentence


class FactorRow(NamedTuple):
    """A layer that was to become a chain. tone: good where it did for being faster, else plain or bad."""

    name: str
    ranks: str
    speedup: str
    verdict: str
    tone: str


def training(found: Pruning) -> str:
    """'after 4 more epochs of training, which the unpruned network did not have'; "" where it is not known."""
    if found.epochs is None:
        return ""
    if not found.epochs:
        return "without further training"
    epochs = "1 more epoch" if found.epochs == 1 else f"{found.epochs:,} more epochs"
    rounds = len(found.rounds)
    reset = f" ({rounds} round{'s' * (rounds > 1)}, each from reset weights)" if found.rewound else ""
    return f"after {epochs} of training{reset}, which the unpruned network did not have"


def left_alone(found: Pruning) -> str:
    """'19 of 21 layers keep all weights, as their shape forbids the pattern: a, b, c and 16 more.'; "" without any."""
    if not found.skipped:
        return ""
    many = len(found.skipped) > 1
    more = f" and {len(found.skipped) - SHOWN} more" if len(found.skipped) > SHOWN else ""
    return (f"{len(found.skipped)} of {len(found.layers)} layers {'keep' if many else 'keeps'} all weights, as "
            f"{'their' if many else 'its'} shape forbids the pattern: {', '.join(found.skipped[:SHOWN])}{more}.")


def check_intro(found: Pruning) -> str:
    """Which engine decided, at what batch, under what budget, and what was reached before the training after it."""
    told = "Engines that were rebuilt and timed on the way to the budget."
    if (by := found.decided) is None:
        return told
    budget = "" if by.budget is None else f"; the budget was {by.budget:g} of the unpruned latency"
    return (f"{told} {by.engine} decided at batch {by.batch}{budget}. {_reached(by)}A step stayed only where its "
            "engine was faster than the one before by the whole 95 % interval.")


def check_rows(found: Pruning) -> list[tuple[str, ...]]:
    """Latency checks: number, predicted, measured, how far off, unpruned, share of it, and what became of it."""
    return [(str(i), milliseconds(c.predicted_ms), milliseconds(c.measured_ms),
             f"{signed(100 * (c.predicted_ms / c.measured_ms - 1))} %", milliseconds(c.unpruned_ms),
             f"{c.measured_ms / c.unpruned_ms:.2f}" if c.unpruned_ms else NOTHING,
             "" if c.accepted is None else "accepted" if c.accepted else "taken back")
            for i, c in enumerate(found.checks, start=1)]


def factor_intro(found: Pruning) -> str:
    """How many layers were to be factorized, and what decided about each."""
    many = len(found.factorizing) > 1
    count = (f"{len(found.factorizing)} of {len(found.layers)} layers {'were' if many else 'was'} to become "
             f"{'chains' if many else 'a chain'} of smaller ones")
    if (by := found.decided) is None:
        return f"{count}: no engine was asked whether that is faster."
    return (f"{count}. Each was timed alone on {by.engine} at batch {by.batch}, and became one only where that was "
            f"faster by the whole 95 % interval. {_reached(by)}").rstrip()


def factor_rows(found: Pruning) -> list[FactorRow]:
    """Each layer that was to be factorized, those first that were."""
    return [FactorRow(f.name, " and ".join(map(str, f.ranks)), _speed(f.speedup), *_verdict(f))
            for f in sorted(found.factorizing, key=lambda f: not f.accepted)]


def _verdict(found: Factorizing) -> tuple[str, str]:
    if found.accepted:
        return "factorized", "good" if found.speedup else "plain"
    slower = found.speedup is not None and found.speedup.high is not None and found.speedup.high < 1
    return ("left: slower as a chain", "bad") if slower else ("left: not measurably faster", "plain")


def _speed(speedup: Speedup | None) -> str:
    ends = speedup_interval(speedup)
    return times(speedup.value if speedup else None) + (f" ({ends})" if ends else "")


def _reached(by: Decided) -> str:
    if by.unpruned_ms is None or by.pruned_ms is None:
        return ""
    ends = speedup_interval(by.speedup)
    fast = "" if by.speedup is None else f", {times(by.speedup.value)} as fast{f' (95 %: {ends})' if ends else ''}"
    return (f"The whole network, before the training after it: {milliseconds(by.pruned_ms)} of "
            f"{milliseconds(by.unpruned_ms)} ms{fast}. ")
