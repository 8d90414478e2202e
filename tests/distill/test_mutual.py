import math

import numpy as np
import pytest
import torch
from torch import nn
from train_data import small_net, squares

from toolchain.data.loader import Batch
from toolchain.distill.mutual import Peers, best_peer, mutual, peer_divergences
from toolchain.distill.objective import Setting
from toolchain.errors import TrainError
from toolchain.recipe.distill import EarlyStop, Mutual
from toolchain.recipe.schema import Train
from toolchain.train import Progress, fit

FIRST = torch.tensor([[3 / 4, 1 / 4]], dtype=torch.float64).log()
SECOND = torch.tensor([[1 / 2, 1 / 2]], dtype=torch.float64).log()
TO_FIRST = math.log(4 / 3) / 2  # KL(second || first) = ln((1/2) / (3/4)) / 2 + ln((1/2) / (1/4)) / 2
TO_SECOND = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # KL(first || second)


class Fixed(nn.Module):
    """Gives the same logits for every image."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, images):
        return self.logits.expand(len(images), -1)


def section(**values) -> Mutual:
    return Mutual(method="mutual", **values)


def setting(student: nn.Module, *others: nn.Module, train: Train = Train()) -> Setting:  # noqa: B008
    return Setting(student, None, squares(), train, lambda seed: others[seed - 1])


def batch(labels: list[int]) -> Batch:
    return Batch(torch.zeros(len(labels), 3, 2, 2), torch.tensor(labels), torch.arange(len(labels)))


def seeded_net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return small_net()


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


def test_each_peer_is_taught_by_the_other_as_worked_by_hand():
    first, second = peer_divergences([FIRST, SECOND], temperature=1.0)
    assert first.item() == pytest.approx(TO_FIRST, rel=1e-12)
    assert second.item() == pytest.approx(TO_SECOND, rel=1e-12)


def test_temperature_softens_both_peers_and_scales_by_its_square():
    first, second = peer_divergences([2 * FIRST, 2 * SECOND], temperature=2.0)
    assert (first.item(), second.item()) == pytest.approx((4 * TO_FIRST, 4 * TO_SECOND), rel=1e-12)


@pytest.mark.parametrize(("reduce", "share"), [("mean", 0.5), ("sum", 1.0)])
def test_three_peers_average_or_add_what_the_others_teach(reduce, share):
    first, second, third = peer_divergences([FIRST, SECOND, SECOND], 1.0, reduce)
    assert first.item() == pytest.approx(share * 2 * TO_FIRST, rel=1e-12)
    assert second.item() == third.item() == pytest.approx(share * TO_SECOND, rel=1e-12)  # equal peers teach nothing


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("peers", [2, 3])
def test_the_gradient_is_the_mean_difference_to_the_other_peers_probabilities(peers, temperature):
    random = torch.Generator().manual_seed(peers)
    logits = [torch.randn(4, 5, generator=random, dtype=torch.float64, requires_grad=True) for _ in range(peers)]
    softened = [softmax(z.detach().numpy() / temperature) for z in logits]
    for own, divergence in enumerate(peer_divergences(logits, temperature)):
        gradients = torch.autograd.grad(divergence, logits, allow_unused=True)
        others = [p for other, p in enumerate(softened) if other != own]
        expected = temperature * (softened[own] - np.mean(others, axis=0)) / 4
        np.testing.assert_allclose(gradients[own].numpy(), expected, rtol=1e-8, atol=1e-12)
        assert [n for n, gradient in enumerate(gradients) if gradient is not None] == [own]  # the teachers are detached


def test_the_gradient_agrees_with_differences_of_the_loss():
    first, second = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: peer_divergences([z, second], 3.0)[0], (first.requires_grad_(True),))


def test_the_loss_is_the_weighted_sum_over_all_peers_and_the_logits_are_the_students():
    student, peer = Fixed(FIRST), Fixed(SECOND)
    loss = mutual(section(ce_weight=2.0, weight=3.0), setting(student, peer))
    value, logits, parts = loss(student, batch([0, 1]), Progress(0, 10))
    labels = (math.log(4 / 3) + math.log(4)) / 2, math.log(2)
    assert value.item() == pytest.approx(2 * sum(labels) + 3 * (TO_FIRST + TO_SECOND), rel=1e-12)
    assert torch.equal(logits, FIRST.expand(2, 2))
    assert {name: torch.as_tensor(part).item() for name, part in parts.items()} == pytest.approx({
        "label_weight": 2.0, "method_weight": 3.0, "peer_1_label": labels[0], "peer_1_kl": TO_FIRST,
        "peer_2_label": labels[1], "peer_2_kl": TO_SECOND}, rel=1e-12)
    value.backward()  # 2 (p - onehot) + 3 (p_own - p_other), worked by hand
    assert student.logits.grad[0].tolist() == pytest.approx([2 * 0.25 + 3 * 0.25, -2 * 0.25 - 3 * 0.25])
    assert peer.logits.grad[0].tolist() == pytest.approx([-3 * 0.25, 3 * 0.25], abs=1e-12)


@pytest.mark.parametrize(("reduce", "share"), [("mean", 0.5), ("sum", 1.0)])
def test_the_section_says_whether_three_peers_average_or_add(reduce, share):
    student = Fixed(FIRST)
    loss = mutual(section(peers=3, reduce=reduce, ce_weight=0.0),
                  setting(student, Fixed(SECOND), Fixed(SECOND + 1)))  # the same predictions from other weights
    expected = share * (2 * TO_FIRST + TO_SECOND + TO_SECOND)
    assert loss(student, batch([0]), Progress(0, 10)).loss.item() == pytest.approx(expected, rel=1e-12)


def test_extreme_logits_give_finite_losses_and_gradients_in_float32():
    logits = [(1e4 * torch.randn(8, 10, generator=torch.Generator().manual_seed(n))).requires_grad_(True) for n in (0, 1)]
    total = torch.stack(peer_divergences(logits, 1.0)).sum()
    assert math.isfinite(total.item())
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(total, logits))


def test_labels_are_smoothed_for_every_peer():
    student, peer = Fixed(SECOND), Fixed(FIRST)
    loss = mutual(section(weight=0.0), setting(student, peer, train=Train(label_smoothing=0.2)))
    smoothed = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    assert loss(student, batch([0]), Progress(0, 10)).loss.item() == pytest.approx(math.log(2) + smoothed, rel=1e-12)


def test_after_the_early_stop_each_peer_learns_from_the_labels_alone():
    student, peer = Fixed(FIRST), Fixed(SECOND)
    loss = mutual(section(ce_weight=0.5, early_stop=EarlyStop(after=0.5)), setting(student, peer))
    assert loss(student, batch([0]), Progress(4, 10)).parts["method_weight"] == 1.0
    value, _, parts = loss(student, batch([0]), Progress(5, 10))
    assert parts["method_weight"] == 0.0
    value.backward()
    assert student.logits.grad[0].tolist() == pytest.approx([-0.25, 0.25])
    assert peer.logits.grad[0].tolist() == pytest.approx([-0.5, 0.5])


def test_half_precision_is_computed_in_float32():
    student, peer = Fixed(FIRST.to(torch.bfloat16)), Fixed(SECOND.to(torch.bfloat16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, logits, _ = mutual(section(), setting(student, peer))(student, batch([0]), Progress(0, 1))
    assert (value.dtype, logits.dtype) == (torch.float32, torch.float32)


def test_each_peer_is_a_child_of_its_own():
    loss = mutual(section(peers=3), setting(Fixed(FIRST), Fixed(SECOND), Fixed(2 * SECOND + 1)))
    assert isinstance(loss, Peers)
    assert [name for name, _ in loss.named_parameters()] == ["peer_2.logits", "peer_3.logits"]
    assert len(list(loss.children())) == 2


@pytest.mark.parametrize(("others", "who"), [([FIRST, SECOND], "peers 1 and 2"), ([SECOND, SECOND], "peers 2 and 3")])
def test_peers_that_begin_alike_are_refused(others, who):
    with pytest.raises(TrainError, match=f"distill.peers: {who} begin with the same weights"):
        mutual(section(peers=3), setting(Fixed(FIRST), *(Fixed(logits) for logits in others)))


def test_all_peers_are_trained_beside_the_student(tmp_path):
    student, peer = seeded_net(0), seeded_net(1)
    before = [parameter.clone() for parameter in peer.parameters()]
    cfg = Train(epochs=2, batch_size=32, mixed_precision="no", channels_last=False)
    loss = mutual(section(), setting(student, peer, train=cfg))
    history = fit(student, squares(), cfg, folder=tmp_path, seed=0, loss=loss)
    assert not any(torch.equal(old, new) for old, new in zip(before, peer.parameters(), strict=True))
    assert peer[1].running_mean.any()  # it ran in train mode
    assert history[1]["parts"]["peer_2_label"] < history[0]["parts"]["peer_2_label"]
    assert history[0]["parts"]["peer_1_kl"] > 0


@pytest.mark.parametrize(("accuracies", "best"), [([70.0, 80.0, 60.0], 1), ([80.0, 80.0, 60.0], 0)])
def test_the_best_peer_takes_the_students_place(accuracies, best):
    student, others = seeded_net(0), [seeded_net(1), seeded_net(2)]
    judged = {id(peer): value for peer, value in zip([student, *others], accuracies, strict=True)}
    loss = mutual(section(peers=3), setting(student, *others))
    others[0][1].running_mean.fill_(5.0)
    found = best_peer(student, loss, lambda peer: judged[id(peer)])
    assert found == {"peers_val_top1": accuracies, "mean": pytest.approx(sum(accuracies) / 3), "best": best}
    expected = [seeded_net(0), others[0]][best].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in student.state_dict().items())
