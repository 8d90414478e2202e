"""Blame on a network of three layers with weights drawn at random, which needs no training."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from toolchain.blame.align import align
from toolchain.blame.judge import decibels, judge
from toolchain.blame.propose import culprits
from toolchain.errors import OnnxError
from toolchain.graph.convert import convert
from toolchain.graph.onnx_file import read_onnx, write_onnx
from toolchain.ranges import ActivationRange, Ranges

IMAGES = np.random.default_rng(1).normal(size=(48, 3, 8, 8)).astype(np.float32)
TENSORS = ("images", "a", "b", "flat")


def network(path: Path) -> Path:
    """Conv, Relu, Conv, Relu, mean over positions, Gemm; named as PyTorch would name them."""
    random = np.random.default_rng(0)
    weights = {"first.weight": random.normal(size=(16, 3, 3, 3)) / 5, "second.weight": random.normal(size=(16, 16, 3, 3)) / 12,
               "head.weight": random.normal(size=(5, 16))}
    nodes = [helper.make_node("Conv", ["images", "first.weight"], ["c1"], "conv_1", pads=[1, 1, 1, 1]), helper.make_node("Relu", ["c1"], ["a"], "relu_1"),
             helper.make_node("Conv", ["a", "second.weight"], ["c2"], "conv_2", pads=[1, 1, 1, 1]), helper.make_node("Relu", ["c2"], ["b"], "relu_2"),
             helper.make_node("GlobalAveragePool", ["b"], ["pooled"], "pool"), helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
             helper.make_node("Gemm", ["flat", "head.weight"], ["logits"], "head", transB=1)]
    graph = helper.make_graph(
        nodes, "network", [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def ranges(path: Path) -> Ranges:
    """The largest magnitudes on IMAGES, from ONNX Runtime with these tensors as outputs."""
    import onnxruntime as ort

    model = onnx.load(path)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in TENSORS[1:])
    values = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(TENSORS[1:], {"images": IMAGES})
    return Ranges({name: ActivationRange(float(v.min()), float(v.max()), float(np.abs(v).max()))
                   for name, v in zip(TENSORS, [IMAGES, *values], strict=True)})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("blame")
    found = {"float": network(folder / "float.onnx")}
    for precision in ("int8", "int4", "int8_weight_only", "fp8"):
        found[precision], rules = folder / f"{precision}.onnx", "tensorrt" if precision == "fp8" else "cpu_x86"
        convert(found["float"], found[precision], precision, rules, ranges(found["float"]), probe=IMAGES[:4])
    return found


def batches() -> list[np.ndarray]:
    return [IMAGES[:32], IMAGES[32:]]


def times_four(source: Path, out: Path, initializer: str) -> Path:
    model = read_onnx(source)
    value = model.graph.initializers[initializer]
    assert value.const_value is not None
    value.const_value = ir.Tensor(value.const_value.numpy() * np.float32(4), name=value.name)
    write_onnx(model, out)
    return out


def test_each_layer_is_found_in_both_files_with_its_fusion_boundary(files: dict[str, Path]) -> None:
    found = {one.name: one for one in align(files["float"], files["int8"])}
    assert list(found) == ["first", "second", "head"]
    assert [one.boundary for one in found.values()] == ["a", "b", "logits"]
    assert found["second"].nodes == ["conv_2"] and found["second"].quantized_nodes == ["conv_2"]
    assert [one.precision for one in found.values()] == ["int8"] * 3


def test_dequantized_weights_are_codes_times_scale(files: dict[str, Path]) -> None:
    found = {one.name: one for one in align(files["float"], files["int8"])}["second"]
    scale = np.abs(found.float_weight).max(axis=(1, 2, 3), keepdims=True) / np.float32(127)
    assert found.weight is not None
    np.testing.assert_allclose(found.weight, np.rint(found.float_weight / scale) * scale, rtol=1e-6)


@pytest.mark.parametrize("precision", ["int4", "int8_weight_only"])
def test_weight_only_files_round_no_activation(files: dict[str, Path], precision: str) -> None:
    found = align(files["float"], files[precision])
    assert all(one.weight is not None and not one.grids for one in found)
    assert {one.precision for one in found} <= {"int4", "int8_weight_only"}


CORRUPTED = [("int8", "first.weight_scale", "first"), ("int8", "second.weight_scale", "second"), ("int8", "head.weight_scale", "head"),
             ("int8", "images_scale", "first"), ("int8", "a_scale", "second"), ("int8", "flat_scale", "head"),
             ("int4", "first.weight_scale", "first"), ("int4", "second.weight_scale", "second"), ("int4", "head.weight_scale", "head"),
             ("int8_weight_only", "first.weight_scale", "first"), ("int8_weight_only", "second.weight_scale", "second"),
             ("int8_weight_only", "head.weight_scale", "head")]


def test_a_scale_times_four_puts_its_layer_first_in_at_least_eleven_of_twelve_files(files: dict[str, Path], tmp_path: Path) -> None:
    hits = []
    for precision, initializer, layer in CORRUPTED:
        bad = times_four(files[precision], tmp_path / "bad.onnx", initializer)
        found, _ = judge(files["float"], bad, batches, len(IMAGES))
        hits.append(found.layers[0].name == layer and found.layers[0].fault is not None)
    assert sum(hits) >= 11, [c for c, hit in zip(CORRUPTED, hits, strict=True) if not hit]


def e4m3(values: np.ndarray, amax: np.ndarray) -> np.ndarray:
    scale = (amax / 448).astype(np.float16).astype(np.float32)  # what is not FP8 is FP16 there, scales too
    return np.clip(values / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale


def test_what_a_layer_costs_in_fp8_is_what_arithmetic_by_hand_gives(files: dict[str, Path]) -> None:
    """The input of `second` stands behind a Relu, which ONNX Runtime's optimizer drops before FP8 codes."""
    torch = pytest.importorskip("torch")
    weights = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in onnx.load(files["float"]).graph.initializer}
    a = torch.nn.functional.conv2d(torch.from_numpy(IMAGES), weights["first.weight"], padding=1).relu()

    def logits(value, weight):
        b = torch.nn.functional.conv2d(value, weight, padding=1).relu().mean(dim=(2, 3))
        return (b @ weights["head.weight"].T).log_softmax(dim=1)

    weight = weights["second.weight"].numpy()
    before, after = logits(a, weights["second.weight"]), logits(
        torch.from_numpy(e4m3(a.numpy(), a.abs().max().numpy())),
        torch.from_numpy(e4m3(weight, np.abs(weight).max(axis=(1, 2, 3), keepdims=True))))
    by_hand = float((before.exp() * (before - after)).sum(dim=1).mean())
    found = {layer.name: layer for layer in judge(files["float"], files["fp8"], batches, len(IMAGES))[0].layers}
    assert found["second"].precision == "fp8" and found["second"].kl_nats == pytest.approx(by_hand, rel=0.1)


@pytest.mark.parametrize("precision", ["int8", "int4", "int8_weight_only"])
def test_no_scale_of_a_sound_file_is_called_wrong(files: dict[str, Path], precision: str) -> None:
    found, _ = judge(files["float"], files[precision], batches, len(IMAGES))
    assert [layer.fault for layer in found.layers] == [None] * 3
    costs = [layer.kl_nats for layer in found.layers]
    assert costs == sorted(costs, reverse=True)


def made(files: dict[str, Path], out: Path, given: Ranges) -> Path:
    convert(files["float"], out, "int8", "cpu_x86", given, probe=IMAGES[:4])
    return out


def with_wide_inputs_and_short_weights(source: Ranges) -> Ranges:
    """As of a calibration whose images were four times as bright, and of training that learned to clip weights."""
    activations = {name: ActivationRange(4 * r.min, 4 * r.max, 4 * r.amax) for name, r in source.activations.items()}
    return Ranges(activations, {"second.weight": [0.08] * 16})


def test_scales_that_the_ranges_ask_for_are_never_wrong_however_odd_they_look(files: dict[str, Path], tmp_path: Path) -> None:
    given = with_wide_inputs_and_short_weights(ranges(files["float"]))
    odd = made(files, tmp_path / "odd.onnx", given)
    found, _ = judge(files["float"], odd, batches, len(IMAGES), expected_onnx=made(files, tmp_path / "expected.onnx", given))
    assert [(layer.fault, layer.proven) for layer in found.layers] == [(None, False)] * 3


def test_without_ranges_odd_scales_are_said_not_to_fit_and_are_no_reason_to_keep_a_layer_float(files: dict[str, Path], tmp_path: Path) -> None:
    odd = made(files, tmp_path / "odd.onnx", with_wide_inputs_and_short_weights(ranges(files["float"])))
    found, _ = judge(files["float"], odd, batches, len(IMAGES))
    told = [layer.fault for layer in found.layers if layer.fault]
    assert told and all("not fit" in words and "wrong" not in words for words in told) and not any(layer.proven for layer in found.layers)
    assert culprits(found.layers)[0].kl_nats == max(layer.kl_nats for layer in found.layers)


def test_codes_chosen_by_outputs_are_not_held_against_the_weights(files: dict[str, Path], tmp_path: Path) -> None:
    odd = times_four(files["int4"], tmp_path / "odd.onnx", "second.weight_scale")  # as large as GPFQ's of three levels can be
    told = {asked: judge(files["float"], odd, batches, len(IMAGES), by_output=asked)[0].layers for asked in (False, True)}
    assert [[layer.name for layer in layers if layer.fault] for layers in told.values()] == [["second"], []]


@pytest.mark.parametrize(("precision", "initializer", "layer", "what"), [
    ("int8", "a_scale", "second", "'a'"), ("int8", "first.weight_scale", "first", "its weights"), ("int4", "second.weight_scale", "second", "its weights")])
def test_a_scale_that_is_not_the_one_asked_for_is_named_with_its_factor(
    files: dict[str, Path], tmp_path: Path, precision: str, initializer: str, layer: str, what: str
) -> None:
    bad = times_four(files[precision], tmp_path / "bad.onnx", initializer)
    found, _ = judge(files["float"], bad, batches, len(IMAGES), expected_onnx=files[precision])
    assert (found.layers[0].name, found.layers[0].fault) == (layer, f"the scale of {what} is 4 times what the build's ranges ask for")
    assert [each.proven for each in found.layers] == [True, False, False] and culprits(found.layers) == found.layers[:1]


def test_a_file_of_another_network_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load(files["float"])
    for name in ("second.weight",):
        next(t for t in model.graph.initializer if t.name == name).name = "other.weight"
        next(n for n in model.graph.node if n.name == "conv_2").input[1] = "other.weight"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(OnnxError, match="lacks layer second of the float network"):
        align(files["float"], tmp_path / "other.onnx")


def test_decibels_of_a_hundredth_are_twenty() -> None:
    assert decibels(100.0, 1.0) == pytest.approx(20.0)
    assert decibels(1.0, 0.0) == 200.0
