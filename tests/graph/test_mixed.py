"""One file with a precision for each layer, judged by what it stores and by what ONNX Runtime makes of it."""

import onnx
import pytest

from toolchain.errors import OnnxError
from toolchain.graph.convert import convert
from toolchain.graph.layers import layers
from toolchain.graph.mixed_bytes import layer_bytes, mixed_bytes
from toolchain.graph.onnx_file import read_onnx
from toolchain.graph.rules import RULES
from toolchain.recipe.quantize import Int4, Int8


def names_of(path):
    return list(dict.fromkeys(layer.name for layer in layers(read_onnx(path).graph)))


@pytest.mark.parametrize("rules", ["cpu_x86", "tensorrt", "tensorrt_sm75", "openvino"])
@pytest.mark.parametrize("precision", ["int8", "int4", "fp16"])
def test_one_precision_for_all_layers_is_that_engines_file_byte_for_byte(float_onnx, ranges, probe, tmp_path, rules, precision) -> None:
    source, images = float_onnx("vgg"), probe(32)
    convert(source, tmp_path / "a.onnx", precision, rules, ranges("vgg"), probe=images)
    convert(source, tmp_path / "b.onnx", "mixed", rules, ranges("vgg"), probe=images,
            assignment=dict.fromkeys(names_of(source), precision))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("rules", ["cpu_x86", "tensorrt", "tensorrt_sm75"])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_with_layers_kept_float_it_is_still_that_engines_file(float_onnx, ranges, probe, tmp_path, rules, precision) -> None:
    source, images, names = float_onnx("resnet18"), probe(32), names_of(float_onnx("resnet18"))
    kept = names[0], names[5], names[-1]  # the last feeds on the last residual Add
    section = {precision: {"int8": Int8, "int4": Int4}[precision](first_last="float", keep_float=(names[5],))}
    rest = "fp16" if rules == "tensorrt_sm75" or (rules == "tensorrt" and precision == "int4") else "fp32"
    convert(source, tmp_path / "a.onnx", precision, rules, ranges("resnet18"), probe=images, **section)
    convert(source, tmp_path / "b.onnx", "mixed", rules, ranges("resnet18"), probe=images, **section,
            assignment={name: rest if name in kept else precision for name in names})
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_residual_adds_are_integers_too_where_all_their_layers_are(float_onnx, ranges, probe, tmp_path, optimized_ops) -> None:
    source, names = float_onnx("resnet18"), names_of(float_onnx("resnet18"))
    ends = {name: "fp16" if name in (names[0], names[-1]) else "int8" for name in names}

    def ops(**given):
        convert(source, tmp_path / "m.onnx", "mixed", "cpu_x86", ranges("resnet18"), probe=probe(32), **given)
        return optimized_ops(tmp_path / "m.onnx")

    whole = ops(assignment=dict.fromkeys(names, "int8"))
    assert (whole["QLinearConv"], whole["QLinearAdd"]) == (20, 8)
    simple = ops(assignment=ends)  # the last Add feeds the float layer alone
    assert (simple["QLinearConv"], simple["QLinearAdd"]) == (19, 7)
    assert "QLinearAdd" not in ops(assignment=dict.fromkeys(names, "int8"), joins=False)


def test_a_float_layer_between_int8_ones_stays_float_and_its_neighbours_integers(float_onnx, ranges, probe, tmp_path, optimized_ops) -> None:
    source, names = float_onnx("vgg"), names_of(float_onnx("vgg"))
    for kind in ("fp32", "fp16", "int8_weight_only", "int4"):
        convert(source, tmp_path / "m.onnx", "mixed", "cpu_x86", ranges("vgg"), probe=probe(32),
                assignment={name: kind if name == names[2] else "int8" for name in names})
        found = optimized_ops(tmp_path / "m.onnx")
        assert (found["QLinearConv"], found.get("Conv", 0) + found.get("FusedConv", 0)) == (5, 1), (kind, found)


def test_an_fp32_layer_in_a_half_network_keeps_its_weight_and_computes_in_fp32(float_onnx, ranges, probe, tmp_path) -> None:
    source, names = float_onnx("vgg"), names_of(float_onnx("vgg"))
    info = convert(source, tmp_path / "m.onnx", "mixed", "tensorrt", ranges("vgg"), probe=probe(32),
                   assignment={name: "fp32" if name == names[1] else "fp16" for name in names})
    assert [layer["precision"] for layer in info["layers"]] == ["fp16", "fp32"] + ["fp16"] * (len(names) - 2)
    graph = onnx.load(tmp_path / "m.onnx").graph
    kinds = {each.name: each.data_type for each in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert [kinds[node.input[1]] for node in convolutions[:3]] == [onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16]
    onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "m.onnx"), strict_mode=True, check_type=True)


@pytest.mark.parametrize("rules", ["cpu_x86", "tensorrt"])
def test_bytes_by_layer_are_those_of_the_formats_and_add_up_to_the_file(float_onnx, ranges, probe, tmp_path, rules) -> None:
    source, names = float_onnx("vgg"), names_of(float_onnx("vgg"))
    found = layer_bytes(source, RULES[rules], ranges("vgg"), 32, ("fp32", "fp16", "int8", "int4"))
    second, width = names[1], 4 if rules == "cpu_x86" else 2  # conv 16 -> 32, 3x3: 4608 weights, 32 biases
    input_grid, zeros = width + 1, 0 if rules == "cpu_x86" else 32
    assert found[second]["fp16"] == 2 * 4608 + 2 * 32 and found[second]["fp32"] == 4 * 4608 + 4 * 32
    assert found[second]["int8"] == 4608 + 32 * width + zeros + input_grid + 32 * width  # codes, scales, zeros, input, bias
    kinds = dict(zip(names, ("fp16", "int8", "int4") * len(names), strict=False))
    info = convert(source, tmp_path / "m.onnx", "mixed", rules, ranges("vgg"), probe=probe(32), assignment=kinds)
    rest = mixed_bytes(source, RULES[rules], ranges("vgg"), 32, dict.fromkeys(names, "fp16")) - sum(of["fp16"] for of in found.values())
    total = rest + sum(found[name][kind] for name, kind in kinds.items())
    assert abs(info["weight_bytes"] - total) <= 10 * len(names)  # grids of activations that layers share, or do not
    assert info["weight_bytes"] == mixed_bytes(source, RULES[rules], ranges("vgg"), 32, kinds)


def test_a_missing_and_an_unknown_layer_are_named(float_onnx, ranges, tmp_path) -> None:
    source, names = float_onnx("vgg"), names_of(float_onnx("vgg"))
    for wrong, said in ((dict.fromkeys(names[1:], "int8"), f"no precision for {names[0]}"),
                        ({**dict.fromkeys(names, "int8"), "features.00": "int8"}, "found layer 'features.00', expected one of")):
        with pytest.raises(OnnxError, match=said):
            convert(source, tmp_path / "m.onnx", "mixed", "cpu_x86", ranges("vgg"), assignment=wrong)
    assert not (tmp_path / "m.onnx").exists()
