"""Latency on a device: measured again while it is inconclusive, then told as what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .answers import Failed, progress
from .boundaries import outer_ms
from .conditions import Watch, causes, settings
from .energy import counter, energy
from .images import normalize
from .nvml import card
from .opened import Opened
from .probe import cores
from .rounds import interleaved_ms, summary

if TYPE_CHECKING:
    from numpy import ndarray

AGAIN = "again"  # the first engine under a second name: how far one engine is from itself
HOW = {"batch": 1, "warmup": 20, "rounds": 20, "runs": 20, "attempts": 2, "seed": 0, "size": 224}


def trusted_ms(
    engines: Mapping[str, Opened], images: Mapping[str, ndarray], how: Mapping[str, int], threads: int | None
) -> tuple[dict[str, ndarray], dict[str, dict[str, Any]], dict[str, Any]]:
    """Milliseconds (rounds, runs) of every engine on its own batch of `images`, measured again while any is
    inconclusive; what each is worth, {"verdict", "causes", "attempts"}; and how the device stood before and after.
    """
    first, before = next(iter(engines)), settings()
    gpu = any(engine.on_gpu for engine in engines.values())
    attempt, found = 0, {name: ["not measured"] for name in engines}
    while attempt < how["attempts"] and any(found.values()):
        attempt, watch = attempt + 1, Watch(gpu=gpu)
        samples = interleaved_ms(
            {**engines, AGAIN: engines[first]}, {**images, AGAIN: images[first]}, around=watch.around,
            advance=_told(watch, how["rounds"]), **{name: how[name] for name in ("warmup", "rounds", "runs", "seed")})
        found = {name: causes(name, samples, watch, threads or cores(), cores(), (AGAIN, first), engine.on_gpu)
                 for name, engine in engines.items()}
    del samples[AGAIN]
    verdicts = {name: {"verdict": "inconclusive" if why else "valid", "causes": why, "attempts": attempt}
                for name, why in found.items()}
    return samples, verdicts, {"before": before, "after": {**settings(), **_of_gpu(gpu)},
                               "other_cores": round(watch.other_cores(), 2)}


def _told(watch: Watch, rounds: int) -> Callable[[], None]:
    """What is done after each round."""
    ended = iter(range(1, rounds + 1))

    def advance() -> None:
        watch.round_ended()
        progress("latency", next(ended) / rounds)

    return advance


def _of_gpu(asked: bool) -> dict[str, Any]:
    found = card() if asked else None
    return found.settings() if found else {}


def beside(engine: Opened, images: ndarray, pixels: ndarray | None, preprocess: Any) -> dict[str, Any]:
    """What is asked of an engine after the rounds: {"with_transfers", "end_to_end": of `summary`, "energy"}."""
    outer = outer_ms(engine, images, None if pixels is None else lambda: normalize(pixels, preprocess))
    counts = counter(engine.on_gpu)
    return {**{name: None if ms is None else summary(ms) for name, ms in outer.items()},
            "energy": energy(engine, images, counts) if counts else None}


def method(asked: Mapping[str, Any]) -> dict[str, int]:
    """`asked`, with HOW for what is not said. Raises Failed."""
    how = {**HOW, **asked}
    wrong = [name for name, value in how.items()
             if name not in HOW or type(value) is not int or value < (0 if name in ("seed", "warmup") else 1)]
    if wrong:
        raise Failed(f"bench: found {wrong[0]} {how[wrong[0]]!r}, expected whole numbers for {', '.join(HOW)}")
    return how
