"""What a format loses of a network's values, counted; no tensor and no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["weights", "activations", "weight gradients", "activation gradients"]
KINDS: tuple[Kind, ...] = ("weights", "activations", "weight gradients", "activation gradients")
GRADIENTS: tuple[Kind, ...] = KINDS[2:]


@dataclass
class Lost:
    """Values counted: how many are not zero in FP32, how many of those become 0, and how many too large for it."""

    nonzero: int = 0
    zero: int = 0
    overflow: int = 0

    @property
    def zero_percent(self) -> float:
        """Share that becomes 0; 0 where there was nothing to lose."""
        return 100 * self.zero / self.nonzero if self.nonzero else 0.0

    @property
    def overflow_percent(self) -> float:
        """Share that becomes infinite, or is clipped where there is no infinity."""
        return 100 * self.overflow / self.nonzero if self.nonzero else 0.0


Counts = dict[tuple[str, Kind], Lost]  # (layer, kind) -> what is lost


@dataclass
class Losses:
    """What each format loses. plain, scaled: format -> counts, without a loss scale and with that of `scales`.

    layers: convolutions and linear layers in order. scales: the largest power of two at which no gradient overflows.
    """

    layers: list[str]
    loss: float
    plain: dict[str, Counts] = field(default_factory=dict)
    scaled: dict[str, Counts] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)

    def total(self, name: str, kinds: tuple[Kind, ...], scaled: bool = False, layer: str | None = None) -> Lost:
        """The counts of format `name` for these kinds of values together, of one layer or of all."""
        found = Lost()
        for (where, kind), lost in (self.scaled if scaled else self.plain)[name].items():
            if kind in kinds and layer in (None, where):
                found.nonzero += lost.nonzero
                found.zero += lost.zero
                found.overflow += lost.overflow
        return found
