"""The prune section: what is removed or zeroed, in how many rounds, and how the network recovers."""

from __future__ import annotations

from typing import Annotated, Literal, Union

from pydantic import Field, model_validator

from toolchain.recipe.deploy import Engine, OrtEngine
from toolchain.recipe.network import FineTune
from toolchain.recipe.section import Section

LEAST_DENSITY = 0.01  # of every layer: what is left of a thinner one no longer connects its neighbours

DEFAULT_RATIO = 0.5

Share = Annotated[float, Field(gt=0, lt=1)]
Rounds = Annotated[int, Field(ge=1, le=100)]
Scope = Literal["global", "layer"]
Saliency = Literal["l1", "l2", "bn_gamma", "taylor", "random"]
RoundTo = Annotated[int, Field(ge=1, description="keep channel counts a multiple of this")]
Cap = Annotated[float, Field(gt=0, lt=1, description="largest share of channels that any one layer may lose")]


class GroupLasso(Section):
    """Training before pruning that drives whole channels towards zero (DepGraph's sparse learning)."""

    weight: float = Field(5e-4, gt=0, description="of the penalty on the channels' norms")
    train: FineTune = FineTune()


class Scan(Section):
    """How much accuracy each layer costs when it alone is pruned, without fine-tuning; `toolchain sensitivity`."""

    ratios: tuple[Share, ...] = Field((0.1, 0.3, 0.5, 0.7, 0.9), min_length=1)
    images: int | None = Field(1000, ge=1, description="of val; null: all of them")
    file: str | None = Field(None, description="a sensitivity.json, relative to the recipe; null: scanned in the build")

    @model_validator(mode="after")
    def _rising(self) -> Scan:
        if list(self.ratios) != sorted(set(self.ratios)):
            raise ValueError(f"ratios: expected rising shares, found {', '.join(f'{r:g}' for r in self.ratios)}")
        return self


class Channels(Section):
    """Structured channel pruning with everything tied to a channel (DepGraph, Fang et al. 2023), then fine-tuning."""

    method: Literal["channels"]
    ratio: Share | None = Field(
        None, description="share of channels to remove; null: 0.5, unless params or macs is given")
    params: Share | None = Field(None, description="instead of ratio: share of all parameters to remove")
    macs: Share | None = Field(None, description="instead of ratio: share of the multiply-accumulates to remove")
    saliency: Saliency = Field("l2", description="of a channel and all that is tied to it; random is the control")
    ranking: Literal["local", "global", "isomorphic"] = Field(
        "local", description="local: the same ratio everywhere; global: one ranking of all channels; isomorphic: one "
                             "ranking among groups of the same structure")
    cap: Cap = 0.9
    round_to: RoundTo = 8
    rounds: Rounds = 1
    group_lasso: GroupLasso | None = Field(None, description="sparse training before pruning; null: none")
    finetune: FineTune = Field(FineTune(), description="of every round")

    @model_validator(mode="after")
    def _one_amount(self) -> Channels:
        given = [name for name in ("ratio", "params", "macs") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of ratio, params and macs, found {' and '.join(given)}")
        if given in ([], ["ratio"]) and self.ranking == "local" and self.share > self.cap:
            raise ValueError(f"ratio: found {self.share:g}, above the cap of {self.cap:g}; use a smaller ratio or a "
                             "larger cap")
        return self

    @property
    def counts(self) -> Literal["ratio", "params", "macs"]:
        """What the share is a share of: channels (ratio), parameters or multiply-accumulates."""
        return "params" if self.params else "macs" if self.macs else "ratio"

    @property
    def share(self) -> float:
        """Of what `counts` says, the share to remove."""
        return self.ratio or self.params or self.macs or DEFAULT_RATIO


class Greedy(Section):
    """Channels go from the least sensitive layers first, until the network is small enough; then fine-tuning."""

    method: Literal["greedy"]
    params: Share = Field(0.7, description="share of all parameters to remove")
    cap: Cap = 0.9
    layers: int | None = Field(None, ge=1, description="only this many least sensitive layers; null: all")
    saliency: Saliency = "l2"
    scan: Scan = Scan(ratios=(0.5,))
    finetune: FineTune = FineTune()


class SelfDistill(Section):
    """Fine-tuning towards the unpruned network's logits as well as the labels (Hinton et al. 2015)."""

    temperature: float = Field(4.0, gt=0)
    ce_weight: float = Field(0.1, ge=0)
    kd_weight: float = Field(0.9, gt=0)


class Latency(Section):
    """Channels go where they buy measured latency of the engine, until it is within the budget; then fine-tuning."""

    method: Literal["latency"]
    budget: Share = Field(0.5, description="engine latency to reach, share of the unpruned network's")
    engine: Engine = Field(OrtEngine(runtime="onnxruntime", precision="fp32"),
                           description="the engine whose latency counts; it must run here")
    saliency: Saliency = "l2"
    cap: Cap = 0.9
    round_to: RoundTo = 8
    checks: int = Field(4, ge=1, le=100, description="on the way to the budget, rebuild and measure this many times")
    self_distill: SelfDistill | None = Field(
        SelfDistill(), description="the unpruned network teaches where the recipe has no distill section; null: labels "
                                   "alone do")
    finetune: FineTune = FineTune()


class LowRank(Section):
    """Convolutions and linear layers become two or three thinner ones, where their engine is faster for it."""

    method: Literal["low_rank"]
    scheme: Literal["channel", "spatial", "tucker2"] = Field(
        "channel", description="channel: k x k to r channels, then 1 x 1; spatial: k x 1, then 1 x k; tucker2: 1 x 1, "
                               "k x k, 1 x 1; a linear layer becomes two with each")
    energy: Share | None = Field(None, description="least share of the squared singular values to keep; null: 0.95, "
                                                   "unless rank or params is given")
    rank: Share | None = Field(None, description="instead of energy: share of the full rank to keep")
    params: Share | None = Field(None, description="instead of energy: share of all parameters to remove")
    round_to: RoundTo = Field(8, description="ranks are rounded up to a multiple of this")
    engine: Engine | None = Field(
        OrtEngine(runtime="onnxruntime", precision="fp32"),
        description="a layer is replaced only where this engine is measurably faster for it; null: wherever it has "
                    "fewer weights")
    finetune: FineTune = FineTune()

    @model_validator(mode="after")
    def _one_amount(self) -> LowRank:
        given = [name for name in ("energy", "rank", "params") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of energy, rank and params, found {' and '.join(given)}")
        return self


class Magnitude(Section):
    """The smallest weights of Conv2d and Linear layers become zero, at once or in rounds, each with fine-tuning."""

    method: Literal["magnitude"]
    amount: Share | None = Field(None, description="share of the weights that is zero after the last round")
    per_round: Share | None = Field(
        None, description="instead of amount: share of the remaining weights that each round zeroes")
    rounds: Rounds = 1
    scope: Literal["global", "layer", "sensitivity"] = Field(
        "global", description="global: one threshold for the network; layer: the same share of each; sensitivity: of "
                              "each layer what costs equal accuracy in the scan")
    norm: Literal["l1", "l2"] = Field("l1", description="of single weights: both give the same order")
    scan: Scan = Field(Scan(), description="for scope: sensitivity")
    finetune: FineTune = Field(FineTune(), description="of every round")

    @model_validator(mode="after")
    def _amount_or_series(self) -> Magnitude:
        if (self.amount is None) == (self.per_round is None):
            raise ValueError("give amount (the share that is zero in the end) or per_round (the share of the "
                             f"remaining weights that each round zeroes), found {'both' if self.amount else 'neither'}")
        _refuse_emptiness(self.round_share, self.rounds)
        share = 1 - (1 - self.round_share) ** self.rounds
        if self.scope == "sensitivity" and self.scan.file is None and share > self.scan.ratios[-1] + 1e-9:
            raise ValueError(f"scan.ratios end at {self.scan.ratios[-1]:g}, but {share:.4g} of the weights are to be "
                             "zero: no layer would give more than was scanned; add larger ratios, or use a smaller "
                             "amount")
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


Prune = Annotated[
    Union[Channels, Greedy, Latency, LowRank, Magnitude, Lottery, Sparse24], Field(discriminator="method")]


def _refuse_emptiness(share: float, rounds: int) -> None:
    left = (1 - share) ** rounds
    if left < LEAST_DENSITY:
        raise ValueError(f"only {100 * left:.2g} % of the weights would be left, and at least "
                         f"{100 * LEAST_DENSITY:g} % of every layer must be; use a smaller share or fewer rounds")
