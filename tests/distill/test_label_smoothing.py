"""The control without a teacher (Szegedy et al. 2016), in both conventions; the loss itself is train.cross_entropy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.recipe.schema import Train
from toolchain.train import cross_entropy

LOGITS = torch.tensor([[1 / 2, 1 / 4, 1 / 4]], dtype=torch.float64).log()
LABEL = torch.tensor([0])


def smoothed(share: float, mode: str = "uniform") -> Train:
    return Train(label_smoothing=share, label_smoothing_mode=mode)


def test_uniform_spreads_its_share_over_all_classes():
    expected = (0.8 + 0.2 * 2) * math.log(2)  # target 0.8, 0.1, 0.1 against 1/2, 1/4, 1/4
    assert cross_entropy(LOGITS, LABEL, smoothed(0.3)).item() == pytest.approx(expected, rel=1e-12)


def test_off_target_leaves_the_label_one_minus_its_share():
    expected = (0.7 + 0.3 * 2) * math.log(2)  # target 0.7, 0.15, 0.15
    assert cross_entropy(LOGITS, LABEL, smoothed(0.3, "off_target")).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mode", ["uniform", "off_target"])
def test_without_smoothing_it_is_the_mean_of_minus_the_logarithm_of_the_labels_probability(mode):
    logits, labels = LOGITS.repeat(2, 1), torch.tensor([0, 2])
    expected = (math.log(2) + math.log(4)) / 2
    assert cross_entropy(logits, labels, smoothed(0.0, mode)).item() == pytest.approx(expected, rel=1e-12)


@given(seed=st.integers(0, 2**31), classes=st.integers(2, 12), share=st.floats(0, 0.3))
@settings(max_examples=25, deadline=None)
def test_off_target_is_the_uniform_convention_with_a_larger_share(seed, classes, share):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, classes, generator=random, dtype=torch.float64)
    labels = torch.randint(classes, (4,), generator=random)
    off_target = cross_entropy(logits, labels, smoothed(share, "off_target"))
    uniform = cross_entropy(logits, labels, smoothed(share * classes / (classes - 1)))
    assert off_target.item() == pytest.approx(uniform.item(), rel=1e-8)


@pytest.mark.parametrize(("mode", "target"), [("uniform", [0.05, 0.05, 0.85, 0.05]), ("off_target", [0.2 / 3, 0.2 / 3, 0.8, 0.2 / 3])])
def test_the_gradient_is_the_predicted_probability_minus_the_smoothed_target(mode, target):
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.5]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(cross_entropy(logits, torch.tensor([2]), smoothed(0.2, mode)), logits)
    powers = np.exp(logits.detach().numpy()[0])
    np.testing.assert_allclose(gradient[0].numpy(), powers / powers.sum() - target, rtol=1e-8)
