"""Bias correction: rounding no longer shifts what a layer answers on average."""

import numpy as np
import pytest
from repair_nets import DEPTHWISE, SHAPE, depthwise_weights, images, random, repaired, stored, values, write

from toolchain.quantize.repair.grid import Target
from toolchain.recipe.repair import BiasCorrection

CFG = BiasCorrection(method="bias_correction")


def rounded(weight, axis=0):
    """INT8 per output channel, by hand."""
    amax = np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != axis), keepdims=True)
    scale = np.where(amax > 0, amax / np.float32(127), 1).astype(np.float32)
    return np.rint(weight / scale) * scale


def test_the_mean_output_error_on_the_calibration_images_becomes_zero(tmp_path):
    weights = {**depthwise_weights(spread=False), "b_bias": random(4, seed=9)}
    text = DEPTHWISE.replace("(ra, b_weight)", "(ra, b_weight, b_bias)")
    path = write(tmp_path, text, **weights)
    fed = images(32)
    out, found = repaired(path, CFG, fed=fed)
    after = stored(out)
    inputs = dict(zip(("images", "ra", "rb"), values(path, fed, "images", "ra", "rb"), strict=True))
    outputs = dict(zip("abc", values(path, fed, "a", "b", "c"), strict=True))
    for layer, source in (("a", "images"), ("b", "ra"), ("c", "rb")):
        # the layer alone, rounded by hand, on the float network's inputs
        one = {f"{layer}_weight": rounded(weights[f"{layer}_weight"]), "bias": after[f"{layer}_bias"]}
        shape = "x".join(map(str, inputs[source].shape[1:])).replace("x", ",")
        attributes = "<group = 4, pads = [1, 1, 1, 1], strides = [2, 2]>" if layer == "b" else ""
        alone = write(tmp_path, f"net (float[n,{shape}] x) => (float[n,k,h,w] y) {{\n"
                                f"y = Conv {attributes} (x, {layer}_weight, bias)\n}}", "one.onnx", **one)
        missed = (values(alone, inputs[source]) - outputs[layer]).mean(axis=(0, 2, 3))
        uncorrected = missed - (after[f"{layer}_bias"] - weights[f"{layer}_bias"])
        assert np.abs(missed).max() < 1e-6 < 1e-5 < np.abs(uncorrected).max()
    assert not found.recalibrate
    assert found.done["bias_correction"][1].startswith("3 layers")


def test_a_layer_without_a_bias_gets_one_and_a_matmul_takes_that_of_its_add(tmp_path):
    text = """net (float[n,3,6,6] images) => (float[n,2] logits) {
      a = Conv (images, a_weight)
      p = GlobalAveragePool(a)
      f = Reshape(p, shape)
      m = MatMul(f, b_weight)
      logits = Add(m, b_bias)
    }"""
    weights = {"a_weight": random(4, 3, 1, 1), "b_weight": random(4, 2), "b_bias": random(2)}
    path = write(tmp_path, text, **weights, shape=SHAPE)
    fed = images(16)
    out, _ = repaired(path, CFG, fed=fed)
    after = stored(out)
    error = rounded(weights["a_weight"]) - weights["a_weight"]
    shift = np.einsum("oi,ni->o", error[:, :, 0, 0], fed.mean(axis=(2, 3))) / len(fed)
    assert np.allclose(after["a_weight_bias"], -shift, atol=1e-6)
    error = rounded(weights["b_weight"], axis=1) - weights["b_weight"]
    shift = (values(path, fed, "f")[0] @ error).mean(axis=0)
    assert np.allclose(after["b_bias"], weights["b_bias"] - shift, atol=1e-6)


def test_the_order_of_the_images_changes_no_bit(tmp_path):
    path, fed = write(tmp_path), images(16)
    one = stored(repaired(path, CFG, fed=fed)[0])
    other = stored(repaired(path, CFG, fed=fed[::-1])[0])
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_weights_that_lie_on_the_grid_already_need_nothing(tmp_path):
    weights = {name: np.sign(array) if name.endswith("weight") else array for name, array in depthwise_weights().items()}
    path = write(tmp_path, **weights)
    _, found = repaired(path, CFG)
    assert "nothing to correct" in found.done["bias_correction"][1]


@pytest.mark.parametrize("target, corrected", [(Target(), "3 layers"), (Target(first_last="float"), "1 layers")])
def test_layers_that_stay_float_keep_their_bias(tmp_path, target, corrected):
    path = write(tmp_path)
    out, found = repaired(path, CFG, target)
    assert found.done["bias_correction"][1].startswith(corrected)
    same = np.array_equal(stored(out)["c_bias"], stored(path)["c_bias"])
    assert same == (target.first_last == "float")
