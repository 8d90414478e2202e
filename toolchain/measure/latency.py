"""What latencies say when they are compared: ratios within rounds.

Machines drift (clocks, heat, neighbours) far more between minutes than within a round, so engines are compared by
ratios within rounds: the median of the per-round ratios of medians, with a bootstrap over rounds (Efron 1979).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]  # (rounds, runs) milliseconds
RESAMPLES = 2000


def round_ratios(reference: Samples, samples: Samples) -> NDArray[np.float64]:
    """(rounds,) reference median / own median of each round: above 1 is faster than the reference."""
    return np.median(reference, axis=1) / np.median(samples, axis=1)


def speedup(reference: Samples, samples: Samples, seed: int, resamples: int = RESAMPLES) -> dict[str, float]:
    """The median ratio {value, low, high} with a bootstrap 95 % interval over rounds; both have the same rounds."""
    ratios = round_ratios(reference, samples)
    drawn = np.random.default_rng(seed).integers(0, len(ratios), size=(resamples, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), [0.025, 0.975])
    return {"value": float(np.median(ratios)), "low": float(low), "high": float(high)}
