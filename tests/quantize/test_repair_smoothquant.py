"""SmoothQuant: the formula of the paper with a = 0.5, and the same logits."""

import numpy as np
from repair_nets import SHAPE, images, repaired, stored, values, write

from toolchain.quantize.repair.grid import Target
from toolchain.quantize.repair.smoothquant import smoothing_scale
from toolchain.recipe.repair import SmoothQuant

CFG = SmoothQuant(method="smoothquant", alpha=0.5)


def test_the_scale_is_that_of_the_paper():
    # sqrt(16) / sqrt(4) = 2; sqrt(1) / sqrt(4) = 1/2; nothing seen or nothing read: 1
    found = smoothing_scale(np.array([16.0, 1, 0, 5]), np.array([4.0, 4, 3, 0]), 0.5)
    assert np.allclose(found, [2, 0.5, 1, 1])
    assert np.allclose(smoothing_scale(np.array([16.0]), np.array([4.0]), 1.0), 16)  # max|X|^1 / max|W|^0
    assert np.allclose(smoothing_scale(np.array([16.0]), np.array([4.0]), 0.0), 0.25)  # max|X|^0 / max|W|^1


def test_activations_and_weights_of_a_channel_end_with_equal_maxima(tmp_path):
    # with a = 0.5 both become sqrt(max|X| max|W|)
    path = write(tmp_path)
    fed = images(16)
    before, seen = stored(path), values(path, fed, "ra", "rb")
    out, found = repaired(path, CFG, fed=fed)
    after, smooth = stored(out), values(out, fed, "ra", "rb")
    for tensor, (name, axes) in enumerate([("b_weight", (1, 2, 3)), ("c_weight", (0, 2, 3))]):
        inputs = seen[tensor].max(axis=(0, 2, 3))
        expected = np.sqrt(inputs * np.abs(before[name]).max(axis=axes))
        assert np.allclose(smooth[tensor].max(axis=(0, 2, 3)), expected, rtol=1e-4)
        read = np.abs(after[name]).max(axis=axes)
        # b is itself divided, channel by channel, by the factors of the next pair
        again = seen[1].max(axis=(0, 2, 3)) / smooth[1].max(axis=(0, 2, 3)) if name == "b_weight" else 1.0
        assert np.allclose(read * again, expected, rtol=1e-4)
    assert np.allclose(values(out, fed), values(path, fed), atol=1e-5 * np.abs(values(path, fed)).max())
    assert found.recalibrate


def test_two_readers_of_one_tensor_share_its_factors(tmp_path):
    text = """net (float[n,3,6,6] images) => (float[n,4] logits) {
      a = Conv (images, a_weight)
      r = Relu(a)
      b = Conv (r, b_weight)
      c = Conv (r, c_weight)
      j = Concat <axis = 1> (b, c)
      p = GlobalAveragePool(j)
      logits = Reshape(p, shape)
    }"""
    path = write(tmp_path, text, a_weight=np.float32([[4, 0, 0], [0, 1, 0]]).reshape(2, 3, 1, 1),
                 b_weight=np.float32([[1, 1], [2, 2]]).reshape(2, 2, 1, 1),
                 c_weight=np.float32([[3, 1], [8, 1]]).reshape(2, 2, 1, 1), shape=SHAPE)
    fed = np.full((1, 3, 6, 6), 2, np.float32)
    # the tensor holds 8 and 2; over both readers the weights are 8 and 2: both factors are 1
    out, _ = repaired(path, CFG, fed=fed)
    assert np.allclose(stored(out)["a_weight"], stored(path)["a_weight"])
    assert np.allclose(stored(out)["c_weight"], stored(path)["c_weight"])


def test_beside_int4_weights_there_is_nothing_to_smooth(tmp_path):
    path = write(tmp_path)
    out, found = repaired(path, CFG, Target("int4", "int4", 32))
    assert "skipped" in found.done["smoothquant"][1]
    assert np.array_equal(stored(out)["a_weight"], stored(path)["a_weight"])
