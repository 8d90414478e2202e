"""The prune section: what is removed or zeroed, in how many rounds, and how the network recovers."""

from __future__ import annotations

from typing import Annotated, Literal, Union

from pydantic import Field, model_validator

from toolchain.recipe.network import FineTune
from toolchain.recipe.section import Section

LEAST_DENSITY = 0.01  # of every layer: what is left of a thinner one no longer connects its neighbours

Share = Annotated[float, Field(gt=0, lt=1)]
Rounds = Annotated[int, Field(ge=1, le=100)]
Scope = Literal["global", "layer"]


class Channels(Section):
    """Structured channel pruning by the group's L2 norm (DepGraph, Fang et al. 2023), then fine-tuning."""

    method: Literal["channels"]
    ratio: float = Field(0.5, gt=0, lt=1, description="share of channels to remove from every layer")
    round_to: int = Field(8, ge=1, description="keep channel counts a multiple of this")
    finetune: FineTune = FineTune()


class Magnitude(Section):
    """The smallest weights of Conv2d and Linear layers become zero, at once or in rounds, each with fine-tuning."""

    method: Literal["magnitude"]
    amount: Share | None = Field(None, description="share of the weights that is zero after the last round")
    per_round: Share | None = Field(
        None, description="instead of amount: share of the remaining weights that each round zeroes")
    rounds: Rounds = 1
    scope: Scope = Field("global", description="global: one threshold for the network; layer: the same share of each")
    norm: Literal["l1", "l2"] = Field("l1", description="of single weights: both give the same order")
    finetune: FineTune = Field(FineTune(), description="of every round")

    @model_validator(mode="after")
    def _amount_or_series(self) -> Magnitude:
        if (self.amount is None) == (self.per_round is None):
            raise ValueError("give amount (the share that is zero in the end) or per_round (the share of the "
                             f"remaining weights that each round zeroes), found {'both' if self.amount else 'neither'}")
        _refuse_emptiness(self.round_share, self.rounds)
        return self

    @property
    def round_share(self) -> float:
        """Share of the remaining weights that each round zeroes."""
        if self.per_round is not None:
            return self.per_round
        assert self.amount is not None
        return self.amount if self.rounds == 1 else 1 - (1 - self.amount) ** (1 / self.rounds)


class Lottery(Section):
    """Frankle, Carbin 2019: prune the trained network, set what is left back to its beginning, train again."""

    method: Literal["lottery"]
    rounds: Rounds = 5
    per_round: Share = Field(0.2, description="share of the remaining weights that each round zeroes")
    scope: Scope = Field("layer", description="global: one threshold for the network; layer: the same share of each")
    rewind: Literal["weights", "learning_rate"] = Field(
        "weights", description="learning_rate (Renda et al. 2020): keep the weights, repeat the training schedule")
    rewind_epoch: int | None = Field(
        None, ge=0, description="rewind: weights: back to the weights after this many epochs; 0: the initialisation; "
                                "null: 1 (as far as training has epochs)")
    control: Literal["none", "random_mask", "reinit"] = Field(
        "none", description="random_mask: other weights, as many of each layer; reinit: the same ones, from another "
                            "initialisation")

    @model_validator(mode="after")
    def _weights_are_rewound(self) -> Lottery:
        if self.rewind == "learning_rate":
            for field in ("rewind_epoch", "control"):
                if (found := getattr(self, field)) not in (None, "none"):
                    raise ValueError(f"{field}: found {found}, but rewind: learning_rate keeps the weights; "
                                     f"use rewind: weights, or remove {field}")
        if self.control == "reinit" and self.rewind_epoch:
            raise ValueError(f"rewind_epoch: found {self.rewind_epoch}, but control: reinit begins with weights that "
                             "were never trained; use 0, or remove it")
        _refuse_emptiness(self.per_round, self.rounds)
        return self

    @property
    def round_share(self) -> float:
        """Share of the remaining weights that each round zeroes."""
        return self.per_round


class Sparse24(Section):
    """Two of every four weights along the input channels become zero: the pattern that sparse tensor cores skip."""

    method: Literal["sparse24"]
    finetune: FineTune = FineTune()


Prune = Annotated[Union[Channels, Magnitude, Lottery, Sparse24], Field(discriminator="method")]


def _refuse_emptiness(share: float, rounds: int) -> None:
    left = (1 - share) ** rounds
    if left < LEAST_DENSITY:
        raise ValueError(f"only {100 * left:.2g} % of the weights would be left, and at least "
                         f"{100 * LEAST_DENSITY:g} % of every layer must be; use a smaller share or fewer rounds")
