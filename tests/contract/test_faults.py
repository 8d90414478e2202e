"""Seeded faults: each must be found, and the layer it sits in named."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from toolchain.engines import rtx
from toolchain.errors import EngineError
from toolchain.graph.edit import add_initializer
from toolchain.recipe.schema import RtxEngine


def broken(found, op=None):
    """{name: why} of the layers that break the contract."""
    return {layer["name"]: layer["why"] for layer in found["layers"]
            if layer["verdict"] == "broken" and op in (None, layer["op"])}


def node(graph, name):
    return next(n for n in graph if n.name == name)


def bare(graph, reader, position):
    """Take the Q/DQ pair off one input of `reader`."""
    dequantize = reader.inputs[position].producer()
    assert dequantize.op_type == "DequantizeLinear"
    reader.replace_input_with(position, dequantize.inputs[0].producer().inputs[0])


def joins(graph):
    return [n for n in graph if n.op_type == "Add" and all(v.producer() and v.producer().op_type == "DequantizeLinear"
                                                           for v in n.inputs)]


def weight_of(graph, layer):
    """The DequantizeLinear of a layer's weight."""
    return layer.inputs[1].producer()


def float_weight(graph, layer):
    """Replace a layer's INT8 codes by the float weight they stand for; returns its value."""
    decode = weight_of(graph, layer)
    codes, scale = decode.inputs[0].const_value.numpy(), decode.inputs[1].const_value.numpy()
    spread = scale.reshape([-1, *[1] * (codes.ndim - 1)])
    return add_initializer(graph, f"{layer.name}.float", codes.astype(np.float32) * spread)


def convolutions(graph):
    return [n for n in graph if n.op_type == "Conv"]


def square(graph):
    """A convolution with as many inputs as outputs, where another axis of scales is valid ONNX."""
    return next(n for n in convolutions(graph)
                if weight_of(graph, n).inputs[0].shape[0] == weight_of(graph, n).inputs[0].shape[1])


@pytest.fixture
def int8(converted):
    return converted("resnet18", "int8", "cpu_x86")


def test_a_residual_add_without_qdq_is_named_with_the_convolutions_that_it_costs(int8, altered, held):
    chosen = {}

    def edit(graph):
        add = joins(graph)[1]
        chosen["add"] = add.name
        chosen["conv"] = next(v.producer().inputs[0].producer().inputs[0].producer().name for v in add.inputs
                              if v.producer().inputs[0].producer().inputs[0].producer().op_type == "Conv")
        for position in (0, 1):
            bare(graph, add, position)

    found = held(altered(int8, edit), "onnxruntime", "int8")
    assert "reads" in broken(found, "Add")[chosen["add"]] and "no QuantizeLinear" in broken(found, "Add")[chosen["add"]]
    assert chosen["conv"] in broken(found, "Conv") and found["kept_share"] < 1
    (add,) = [layer for layer in found["layers"] if layer["name"] == chosen["add"]]
    assert add["macs"] == 8 * 32 * 32  # 64 channels at width 0.125, at the first stage's full resolution
    assert f"its result goes in float to Add '{chosen['add']}'" in broken(found, "Conv")[chosen["conv"]]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_shortcut_alone_without_qdq_is_named(int8, altered, held, runtime):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    chosen = []

    def edit(graph):
        add = joins(graph)[1]
        chosen.append(add.name)
        bare(graph, add, 1)

    found = broken(held(altered(int8, edit), runtime, "int8"), "Add")
    assert "in float: no QuantizeLinear and DequantizeLinear there" in found[chosen[0]]


def test_tensorrt_wants_qdq_on_the_shortcut_and_not_on_the_trunk(converted, altered, walked):
    chosen = []

    def edit(graph):
        add = next(n for n in graph if n.op_type == "Add")
        chosen.append(add.name)
        position = next(i for i, v in enumerate(add.inputs) if v.producer().op_type == "DequantizeLinear")
        bare(graph, add, position)

    case = converted("resnet18", "int8", "tensorrt")
    assert list(broken(walked(altered(case, edit), "int8"))) == chosen


def test_scales_of_weights_along_the_wrong_axis_are_named(int8, altered, held):
    chosen = []

    def edit(graph):
        layer = square(graph)
        chosen.append(layer.name)
        weight_of(graph, layer).attributes["axis"] = ir.AttrInt64("axis", 1)

    found = held(altered(int8, edit), "onnxruntime", "int8")
    assert list(broken(found)) == chosen
    assert "lie along axis 1, its output channels along axis 0" in broken(found)[chosen[0]]


def test_codes_with_the_scales_of_other_channels_are_named_though_every_layer_runs_in_int8(int8, altered, held):
    chosen = []

    def edit(graph):
        layer = convolutions(graph)[3]
        chosen.append(layer.name)
        scale = weight_of(graph, layer).inputs[1]
        order = np.argsort(scale.const_value.numpy())
        mixed = scale.const_value.numpy().copy()
        mixed[order] = scale.const_value.numpy()[order[::-1]]  # the largest scale to the smallest channel, and so on
        scale.const_value = ir.Tensor(mixed, name=scale.name)

    found = held(altered(int8, edit), "onnxruntime", "int8")
    assert list(broken(found)) == chosen and found["share"] == {"int8": 1}
    assert "codes and scales do not belong together" in broken(found)[chosen[0]]


def test_one_layer_left_in_float_among_many_is_named(converted, altered, held):
    case, chosen = converted("mobilenet_v2", "int8", "cpu_x86"), []

    def edit(graph):
        layer = convolutions(graph)[20]
        chosen.append(layer.name)
        layer.replace_input_with(1, float_weight(graph, layer))
        bare(graph, layer, 0)

    found = held(altered(case, edit), "onnxruntime", "int8")
    assert len(case.asked) > 50 and chosen[0] in broken(found)
    assert "its weights lie as fp32 in the file, not as int8; its input has no QuantizeLinear" in broken(found)[chosen[0]]


def test_float_weights_on_disk_break_an_int8_engine_that_computes_in_int8(converted, altered, held):
    def edit(graph):
        for layer in [n for n in graph if n.op_type in ("Conv", "Gemm")]:
            decode = weight_of(graph, layer)
            code = ir.node("QuantizeLinear", [float_weight(graph, layer), *decode.inputs[1:]],
                           attributes={"axis": 0, "output_dtype": int(ir.DataType.INT8)})  # a convolution's zero_point is left out
            code.outputs[0].name = f"{layer.name}.codes"
            graph.insert_before(decode, code)
            decode.replace_input_with(0, code.outputs[0])

    case = converted("vgg", "int8", "cpu_x86")
    found = held(altered(case, edit), "onnxruntime", "int8")
    assert found["kept_share"] == 0 and found["share"] == {"int8": 1}
    assert list(found["reasons"]) == ["its weights lie as fp32 in the file, not as int8"]


@pytest.mark.parametrize("name", ["vgg", "resnet18"])
def test_signed_codes_on_x86_are_named_as_the_reason_for_float_convolutions(converted, held, name):
    found = held(converted(name, "int8", "tensorrt"), "onnxruntime", "int8")
    assert found["kept_share"] < 0.1 and found["share"]["int8_weight_only"] > 0.9
    assert any("signed around zero_point 0" in why and "it wants uint8 here" in why for why in found["reasons"])


def test_half_arithmetic_that_the_runtime_lacks_is_float_between_casts(converted, held):
    found = held(converted("vgg", "fp16", "tensorrt"), "onnxruntime", "fp16")
    assert (found["kept_share"], found["share"]) == (0, {"fp32": 1})
    assert all("not in fp16" in why for why in found["reasons"])


def test_wrong_numbers_of_an_optimizer_are_found_against_the_file_itself(converted, held):
    """ONNX Runtime's WeightBiasQuantization makes wrong numbers of FP16 with Q/DQ; the same file is right elsewhere."""
    found = held(converted("wider", "int8", "tensorrt_sm75"), "onnxruntime", "int8", numbers=True)
    assert found["numbers"]["verdict"] == "broken" and "the runtime computes something else" in found["numbers"]["why"]


def test_unsigned_codes_for_tensorrt_are_refused_and_were_they_built_named(converted, walked, tmp_path):
    case = converted("vgg", "int8", "cpu_x86")
    with pytest.raises(EngineError, match="has no unsigned INT8"):
        rtx.build(case.onnx, RtxEngine(runtime="tensorrt_rtx", precision="int8", target="sm86"), tmp_path, {})


def test_unsigned_codes_that_a_parser_let_through_are_named(converted, altered, walked):
    def edit(graph):  # zero_point 0, which tensorrt_rtx parses with a warning
        for value in graph.initializers.values():
            if value.const_value.dtype == ir.DataType.UINT8:
                value.const_value = ir.Tensor(np.array(0, np.uint8), name=value.name)

    found = walked(altered(converted("vgg", "int8", "cpu_x86"), edit), "int8")
    assert found["kept_share"] == 0 and found["undecidable_share"] == 0
    assert any("unsigned codes (uint8), which TensorRT lacks" in why for why in found["reasons"])


def four_dimensional(graph):
    """INT4 codes of a convolution as (O, I, kh, kw) in blocks along axis 1, which ONNX allows and TensorRT does not."""
    layer = convolutions(graph)[1]
    reshape = layer.inputs[1].producer()
    shape = tuple(map(int, reshape.inputs[1].const_value.numpy()))
    codes = np.zeros(shape, ml_dtypes.int4)
    scales = np.ones((shape[0], 1, *shape[2:]), np.float16)
    stored = [add_initializer(graph, "bad_codes", codes), add_initializer(graph, "bad_scale", scales)]
    decode = ir.node("DequantizeLinear", stored, attributes={"axis": 1, "block_size": shape[1]})
    decode.outputs[0].name = "bad_weight"
    graph.insert_before(layer, decode)
    layer.replace_input_with(1, decode.outputs[0])
    return layer.name


def test_a_convolution_that_tensorrt_does_not_support_is_refused_with_its_reason(converted, altered, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    case = altered(converted("vgg", "int4", "tensorrt"), four_dimensional)
    with pytest.raises(EngineError, match="blocking dimension must be the last or second to last"):
        rtx.build(case.onnx, RtxEngine(runtime="tensorrt_rtx", precision="int4", target="sm89"), tmp_path, {})
