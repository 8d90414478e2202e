"""Cross-layer equalization: the same logits from weights whose channels share their ranges."""

import numpy as np
import pytest
from repair_nets import DEPTHWISE, SHAPE, depthwise_weights, images, random, repaired, stored, values, write

from toolchain.recipe.repair import CrossLayerEqualization

CFG = CrossLayerEqualization(method="cross_layer_equalization", sweeps=100)


def test_two_layers_share_their_ranges_as_worked_by_hand(tmp_path):
    # channel 0: made with 8, read with 2: s = sqrt(8 / 2) = 2, both become 4; channel 1: 1 and 9, s = 1/3, both 3
    text = """net (float[n,3,1,1] images) => (float[n,2] logits) {
      a = Conv (images, a_weight, a_bias)
      r = Relu(a)
      f = Reshape(r, shape)
      logits = Gemm <transB = 1> (f, b_weight)
    }"""
    made = np.float32([[8, -4, 2], [-1, 0.5, 0]]).reshape(2, 3, 1, 1)
    path = write(tmp_path, text, a_weight=made, a_bias=np.float32([2, 3]),
                 b_weight=np.float32([[2, 9], [-1, 3]]), shape=SHAPE)
    out, found = repaired(path, CFG)
    after = stored(out)
    assert np.allclose(after["a_weight"].reshape(2, 3), [[4, -2, 1], [-3, 1.5, 0]])
    assert np.allclose(after["a_bias"], [1, 9])
    assert np.allclose(after["b_weight"], [[4, 3], [-2, 1]])
    assert found.recalibrate and found.weight_amax == {}
    assert "1 pairs" in found.done["cross_layer_equalization"][1]


def test_a_depthwise_network_computes_the_same_with_equal_ranges_on_both_sides_of_every_channel(tmp_path):
    path = write(tmp_path)
    out, _ = repaired(path, CFG)
    fed = images(32)
    assert np.abs(values(out, fed) - values(path, fed)).max() <= 1e-5 * np.abs(values(path, fed)).max()
    after = {name: np.abs(array) for name, array in stored(out).items()}
    middle = after["b_weight"].max(axis=(1, 2, 3))
    assert np.allclose(after["a_weight"].max(axis=(1, 2, 3)), middle, rtol=1e-3)
    assert np.allclose(after["c_weight"].max(axis=(0, 2, 3)), middle, rtol=1e-3)


def test_groups_and_flattened_maps_are_scaled_channel_by_channel(tmp_path):
    text = """net (float[n,3,4,4] images) => (float[n,2] logits) {
      a = Conv (images, a_weight, a_bias)
      ra = LeakyRelu(a)
      b = Conv <group = 2> (ra, b_weight, b_bias)
      rb = Relu(b)
      m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (rb)
      f = Reshape(m, shape)
      logits = MatMul(f, c_weight)
    }"""
    grow = np.float32([1, 30, 0.1, 5]).reshape(4, 1, 1, 1)
    path = write(tmp_path, text, a_weight=random(4, 3, 1, 1) * grow, a_bias=random(4), b_weight=random(6, 2, 1, 1),
                 b_bias=random(6), c_weight=random(24, 2), shape=SHAPE)
    out, found = repaired(path, CFG)
    fed = images(16, 4)
    assert "2 pairs" in found.done["cross_layer_equalization"][1]
    assert np.allclose(values(out, fed), values(path, fed), atol=1e-5 * np.abs(values(path, fed)).max())
    after = {name: np.abs(array) for name, array in stored(out).items()}
    # channels 0 and 1 are read by outputs 0 to 2, channels 2 and 3 by 3 to 5; each of c's channels has 4 features
    read = after["b_weight"].reshape(2, 3, 2).max(axis=1).reshape(4)
    assert np.allclose(after["a_weight"].max(axis=(1, 2, 3)), read, rtol=1e-3)
    assert np.allclose(after["b_weight"].max(axis=(1, 2, 3)), after["c_weight"].reshape(6, 8).max(axis=1), rtol=1e-3)


def test_a_dead_channel_keeps_its_weights(tmp_path):
    weights = depthwise_weights()
    weights["a_weight"][1] = 0
    weights["b_weight"][2] = 0
    path = write(tmp_path, **weights)
    out, _ = repaired(path, CFG)
    fed, after = images(16), stored(out)
    assert np.allclose(values(out, fed), values(path, fed), atol=1e-5 * np.abs(values(path, fed)).max())
    assert not after["a_weight"][1].any() and not after["b_weight"][2].any()
    assert after["a_bias"][1] == weights["a_bias"][1]  # only factor 1 is safe for what has no range
    assert all(np.isfinite(array).all() for array in after.values())


@pytest.mark.parametrize("between, said", [("Clip(a, zero, six)", "1 x Clip"), ("Sigmoid(a)", "1 x Sigmoid")])
def test_what_does_not_commute_with_a_factor_leaves_the_pair_alone_and_says_so(tmp_path, between, said):
    text = DEPTHWISE.replace("Relu(a)", between)
    path = write(tmp_path, text, **depthwise_weights(), zero=np.float32(0), six=np.float32(6))
    out, found = repaired(path, CFG)
    assert said in found.done["cross_layer_equalization"][1]
    assert np.array_equal(stored(out)["a_weight"], depthwise_weights()["a_weight"])


def test_a_network_without_any_pair_says_so_and_stays_as_it_is(tmp_path):
    text = """net (float[n,3,6,6] images) => (float[n,4] logits) {
      a = Conv (images, a_weight)
      p = GlobalAveragePool(a)
      logits = Reshape(p, shape)
    }"""
    path = write(tmp_path, text, a_weight=random(4, 3, 1, 1), shape=SHAPE)
    out, found = repaired(path, CFG)
    assert "no pair of layers found" in found.done["cross_layer_equalization"][1] and not found.recalibrate
    assert np.array_equal(values(out, images()), values(path, images()))


def test_a_weight_that_two_layers_share_is_left_alone(tmp_path):
    text = """net (float[n,3,6,6] images) => (float[n,3] logits) {
      a = Conv (images, weight)
      r = Relu(a)
      b = Conv (r, weight)
      p = GlobalAveragePool(b)
      logits = Reshape(p, shape)
    }"""
    path = write(tmp_path, text, weight=random(3, 3, 1, 1), shape=SHAPE)
    out, found = repaired(path, CFG)
    assert "1 x a shared weight" in found.done["cross_layer_equalization"][1]
    assert np.array_equal(stored(out)["weight"], random(3, 3, 1, 1))
