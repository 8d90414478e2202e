from math import sqrt

import pytest
import torch

from toolchain.quantize.lsq import LsqInput, LsqWeight, lsq, mean_start


def run(values, scale, lowest, highest, shared_by=4):
    x, s = torch.tensor(values, requires_grad=True), torch.tensor([scale], requires_grad=True)
    y = lsq(x, s, lowest, highest, shared_by)
    y.sum().backward()
    return y.tolist(), x.grad.tolist(), s.grad.item()


def test_values_and_gradients_worked_by_hand():
    # codes -4 … 3, scale 2: x / s is 0.3, 1.2, -5, 9, so the codes are 0, 1, -4, 3
    y, to_x, to_scale = run([0.6, 2.4, -10.0, 18.0], 2.0, -4, 3)
    assert y == [0.0, 2.0, -8.0, 6.0]
    assert to_x == [1.0, 1.0, 0.0, 0.0]
    # (0 - 0.3) + (1 - 1.2) + lowest + highest, over sqrt(4 values * highest 3)
    assert to_scale == pytest.approx((-0.3 - 0.2 - 4 + 3) / sqrt(12))


def test_the_unrounded_value_decides_what_is_clipped():
    # 3.3 rounds to the highest code, 3, but lies beyond it: the paper clips it, torch's own fake quantization does not
    assert run([3.3], 1.0, -4, 3, shared_by=1)[1:] == ([0.0], pytest.approx(3 / sqrt(3)))


def test_gradients_agree_with_torchs_own_away_from_the_last_half_step():
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(4000, generator=generator, dtype=torch.float32)
    scale, weights = torch.tensor([0.05]), torch.randn(4000, generator=generator)
    exact = x / scale
    x = x[~((exact > 126.9) & (exact < 127.6) | (exact < -127.9) & (exact > -128.6))]
    weights = weights[: len(x)]
    a, b = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
    s, t = scale.clone().requires_grad_(True), scale.clone().requires_grad_(True)
    ours = lsq(a, s, -128, 127, len(x))
    theirs = torch._fake_quantize_learnable_per_tensor_affine(b, t, torch.zeros(1), -128, 127, 1 / sqrt(len(x) * 127))
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(a.grad, b.grad)
    torch.testing.assert_close(s.grad, t.grad, rtol=1e-4, atol=1e-5)


def test_each_block_of_a_weight_has_a_scale_and_a_gradient_of_its_own():
    blocks = torch.tensor([[[0.0, 7.0], [1.0, -14.0]]])  # one row, two blocks
    layer = LsqWeight(blocks, -8, 7, "calibrated")
    assert layer.scale.flatten().tolist() == [1.0, 2.0]
    out = layer(blocks)
    assert out.tolist() == [[[0.0, 7.0], [0.0, -14.0]]]  # 1 / 2 rounds to even
    out[0, 1].sum().backward()
    # block 1: round(0.5) - 0.5 and code -7 exactly: nothing to gain; 2 weights share the scale
    assert layer.scale.grad.flatten().tolist() == [0.0, pytest.approx(-0.5 / sqrt(2 * 7))]


def test_the_papers_first_scale():
    assert mean_start(3.0, 9) == 2.0
    blocks = torch.tensor([[[1.0, -3.0, 2.0, 2.0]]])
    assert LsqWeight(blocks, -8, 7, "mean").scale.item() == pytest.approx(2 * 2 / sqrt(7))


def test_a_block_of_zeros_stays_zero_and_a_scale_below_zero_still_learns():
    zeros = torch.zeros(1, 1, 8)
    layer = LsqWeight(zeros, -8, 7, "calibrated")
    layer(zeros).sum().backward()
    assert not layer(zeros).any() and layer.scale.grad.item() == 0.0
    y, _, to_scale = run([1.0], -0.5, -8, 7, shared_by=1)
    assert y == pytest.approx([7e-7]) and to_scale == pytest.approx(7 / sqrt(7))  # it is moved like any other


def test_an_inputs_gradient_is_shared_by_the_values_of_one_image():
    x = torch.full((5, 2, 3), 100.0)  # all clipped: each value pushes by the highest code
    layer = LsqInput(127.0, -128, 127)
    layer(2 * x).sum().backward()
    assert layer.scale.grad.item() == pytest.approx(30 * 127 / sqrt(6 * 127))
    assert layer.amax() == 127.0
