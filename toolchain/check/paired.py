"""Is a model worse than another on the same images? Counted image by image, with three answers.

x_i is what image i was worth before minus what it is worth now: for "right or wrong" 1 (only right before), 0 or -1.
S = sum x_i, Q = sum x_i^2 (the discordant images, where x_i is -1, 0 or 1), n images; the drop is S / n. Under "no
drop" S has variance Q (McNemar 1947), and one image is what a count is uncertain by (Edwards 1948).

- regression: S - 1 > z_alpha sqrt(Q), so a drop above 0 is beyond doubt;
- pass: the one-sided (1 - beta) bound (S + z_beta sqrt(Q)) / n is at most the margin: a larger drop is not there;
- not enough evidence: neither. From n margin >= (z_alpha + z_beta) sqrt(Q) + 1 on this cannot be: where S does not
  exceed z_alpha sqrt(Q) + 1, the bound does not exceed ((z_alpha + z_beta) sqrt(Q) + 1) / n, which is the margin.

Few discordant images, Q <= (z_alpha + z_beta)^2, are judged by the exact binomial of how they fall instead, given how
many there are. Then Q <= (z_alpha + z_beta) sqrt(Q) < n margin wherever n is large enough, so the bound, which is at
most Q / n, decides as well.

Where both hold, a drop is real and smaller than the margin. What a user wants of a gate is to hear of a real loss
before it adds up with the next one, so it is a regression; but on a large test set losses are real that nobody would
trade for anything, so one whose bound is below NEGLIGIBLE of the margin passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Outcome = Literal["regression", "pass", "not enough evidence", "not judged"]
NEGLIGIBLE = 0.2  # share of the margin
EXACT = 1000  # coins whose tail is summed; beyond, the normal's is as good
STEPS = 60  # halvings of [0, 1] that find a binomial's bound


@dataclass(frozen=True)
class Differences:
    """x_i of `images` images, summed up. worse: of the positive ones. better: of the negative ones, without sign."""

    images: int
    worse: int
    better: int
    squares: int

    @property
    def drop(self) -> float:
        """Mean of x, a share: 0.01 is one point of top-1."""
        return (self.worse - self.better) / self.images


@dataclass(frozen=True)
class Judged:
    """What was decided. bound: of the drop beyond what is allowed, one-sided. needed: images that would decide."""

    outcome: Outcome
    drop: float
    bound: float
    needed: int
    significant: bool


def differences(values: NDArray[np.int64]) -> Differences:
    """x (N,) integers, one per image, summed up."""
    return Differences(len(values), int(values[values > 0].sum()), int(-values[values < 0].sum()),
                       int((values.astype(np.int64) ** 2).sum()))


def judge(found: Differences, margin: float, alpha: float, beta: float, allowed: float = 0.0) -> Judged:
    """Whether the drop exceeds `allowed`, as the module says; all three levels and the margin are shares.

    allowed: a loss that is no regression; margin comes on top of it.
    """
    z_alpha, z_beta = z(alpha), z(beta)
    n, root = found.images, math.sqrt(found.squares)
    excess = found.worse - found.better - n * allowed
    coins = found.worse + found.better
    if allowed == 0 and coins == found.squares and coins <= (z_alpha + z_beta) ** 2:
        significant = coin_tail(found.worse, coins) <= alpha
        bound = (2 * coin_bound(found.worse, coins, beta) - 1) * coins / n
    else:
        significant = excess - 1 > z_alpha * root
        bound = min(excess + z_beta * root, coins - n * allowed) / n
    harmless = bound <= margin * (NEGLIGIBLE if significant else 1)
    outcome: Outcome = "pass" if harmless else "regression" if significant else "not enough evidence"
    return Judged(outcome, found.drop, bound, images_needed(found.squares / n, margin, alpha, beta), significant)


def images_needed(discordance: float, margin: float, alpha: float, beta: float) -> int:
    """Images from which on `judge` decides, where a share `discordance` of them differs (mean of x^2).

    n margin = (z_alpha + z_beta) sqrt(n discordance) + 1, solved for n: little more than the well-known
    (z_alpha + z_beta)^2 discordance / margin^2, for the one image that a count is uncertain by.
    """
    slope = (z(alpha) + z(beta)) * math.sqrt(discordance)
    return math.ceil(((slope + math.sqrt(slope**2 + 4 * margin)) / (2 * margin)) ** 2)


def z(tail: float) -> float:
    """The standard normal's quantile that a share `tail` lies above."""
    return NormalDist().inv_cdf(1 - tail)


@lru_cache(maxsize=100_000)
def coin_tail(heads: int, coins: int) -> float:
    """P(at least `heads` of `coins` fair coins): the exact one-sided McNemar test. 1 where there is no coin."""
    if coins > EXACT:
        return 1 - NormalDist().cdf((2 * heads - coins - 1) / math.sqrt(coins))
    return sum(math.comb(coins, k) for k in range(heads, coins + 1)) / 2**coins


@lru_cache(maxsize=100_000)
def coin_bound(heads: int, coins: int, beta: float) -> float:
    """One-sided (1 - beta) upper bound of a coin's chance of heads (Clopper, Pearson 1934); 1/2 without a coin."""
    if coins == 0:
        return 0.5
    if heads == coins:
        return 1.0
    low, high = heads / coins, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        below = sum(math.comb(coins, k) * middle**k * (1 - middle) ** (coins - k) for k in range(heads + 1))
        low, high = (middle, high) if below > beta else (low, middle)
    return high


def holm(tails: Sequence[float], alpha: float) -> list[bool]:
    """Which of many tests are significant, so that one false alarm among all has a chance of alpha (Holm 1979)."""
    order = sorted(range(len(tails)), key=lambda i: tails[i])
    significant = [False] * len(tails)
    for place, i in enumerate(order):
        if tails[i] > alpha / (len(tails) - place):
            break
        significant[i] = True
    return significant
