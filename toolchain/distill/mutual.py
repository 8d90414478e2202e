"""Deep mutual learning: students that teach each other (Zhang, Xiang, Hospedales, Lu 2018, arXiv:1706.00384)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from toolchain.distill.divergence import at_least_float32, soft_target_loss
from toolchain.distill.objective import Setting, scheduled
from toolchain.errors import TrainError
from toolchain.recipe.distill import Mutual
from toolchain.recipe.schema import Train
from toolchain.train import Progress, Step, cross_entropy

if TYPE_CHECKING:
    from toolchain.data.loader import Batch
    from toolchain.train import Loss


def peer_divergences(logits: Sequence[Tensor], temperature: float, reduce: str = "mean") -> list[Tensor]:
    """What each peer has to learn from the others: temperature**2 * KL(other || peer), in nats, each ().

    logits: of two or more peers, each (N, K) before softmax; a peer's divergence gives no gradient to the others. Half
    precision is computed in float32, float64 stays. reduce: "mean" over the other peers (equation 8 of the paper) or
    "sum" (its first code); with two peers they are the same.
    """
    def from_others(own: int) -> Tensor:
        others = (*logits[:own], *logits[own + 1:])
        taught = torch.stack([soft_target_loss(logits[own], other, temperature) for other in others])
        return taught.mean() if reduce == "mean" else taught.sum()

    return [from_others(own) for own in range(len(logits))]


class Peers(nn.Module):
    """The other students of the class, and the loss of all of them: one forward of each, updated simultaneously.

    The loss is the sum over the peers of ce_weight * CE + weight * divergence. Each peer is a direct child, so that the
    training loop clips its gradients apart from the others', as an optimizer of its own would.
    """

    def __init__(self, cfg: Mutual, others: Sequence[nn.Module], train: Train) -> None:
        super().__init__()
        self.cfg, self.train_cfg = cfg, train
        for number, peer in enumerate(others, start=2):
            self.add_module(f"peer_{number}", peer)

    def forward(self, model: nn.Module, batch: Batch, progress: Progress) -> Step:
        """`model` is peer 1, whose logits are the step's. parts: each peer's label loss and divergence, the weights."""
        weights = scheduled(self.cfg, progress, self.cfg.weight)
        logits = [at_least_float32(peer(batch.images)) for peer in (model, *self.children())]
        with torch.autocast(batch.images.device.type, enabled=False):
            labels = torch.stack([cross_entropy(own, batch.labels, self.train_cfg) for own in logits])
            taught = torch.stack(peer_divergences(logits, self.cfg.temperature, self.cfg.reduce))
            loss = weights.label * labels.sum() + weights.method * taught.sum()
        parts: dict[str, Tensor | float] = {"label_weight": weights.label, "method_weight": weights.method}
        for number, (label, divergence) in enumerate(zip(labels, taught, strict=True), start=1):
            parts |= {f"peer_{number}_label": label, f"peer_{number}_kl": divergence}
        return Step(loss, logits[0], parts)


def mutual(cfg: Mutual, setting: Setting) -> Loss:
    """The student and cfg.peers - 1 fresh ones, initialised from the seeds 1, 2, ... of `setting.fresh_student`.

    Raises TrainError when two of them begin with the same weights: they would agree for ever.
    """
    others = [setting.fresh_student(seed) for seed in range(1, cfg.peers)]
    for (first, one), (second, other) in combinations(enumerate((setting.student, *others), start=1), 2):
        if all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(one.parameters(), other.parameters(), strict=True)):
            raise TrainError(f"distill.peers: peers {first} and {second} begin with the same weights, so they have "
                             "nothing to teach each other; expected different ones: leave model.weights out")
    return Peers(cfg, others, setting.train)


def best_peer(model: nn.Module, loss: Loss, accuracy: Callable[[nn.Module], float]) -> dict[str, Any]:
    """Judge every peer, and give `model` the state of the best one (of equal ones the first, which may be its own).

    loss: the one `mutual` made, after training. accuracy: top-1 of a network on val, in percent.
    Returns: `peers_val_top1` (percent, the student's own first), their `mean`, and the index of the `best`, from 0.
    """
    assert isinstance(loss, Peers)
    peers = [model, *loss.children()]
    found = [accuracy(peer) for peer in peers]
    best = found.index(max(found))
    model.load_state_dict(peers[best].state_dict())
    return {"peers_val_top1": found, "mean": sum(found) / len(found), "best": best}
