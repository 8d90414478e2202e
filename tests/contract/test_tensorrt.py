"""The inspector's JSON, written by hand after NVIDIA's documentation: none was recorded, as no GPU was at hand."""

import json
from dataclasses import replace

import onnx
import pytest

from toolchain.contract.engine_file import FileLayer
from toolchain.contract.tensorrt import read
from toolchain.contract.trace import Codes
from toolchain.engines.record import EngineRecord
from toolchain.engines.trt_build import INSPECTED

ROWS = "Thirty-two wide channel vectorized row major {} format"
OLD = {"Int8": {"Format/Datatype": ROWS.format("Int8")}, "FP32": {"Format/Datatype": "Row major linear FP32"}}
NEW = {"Int8": {"Format": "Thirty-two wide channel vectorized row major", "Datatype": "Int8"},
       "FP32": {"Format": "Row major linear", "Datatype": "Float"}}


def layer(name, activation, weights=None, tactic="sm86_xmma_fprop"):
    told = {"Name": f"weight + {name} + relu", "LayerType": "CaskConvolution", "TacticName": tactic,
            "Metadata": f"[ONNX Layer: {name}]\u001e[ONNX Layer: relu]", "Inputs": [{"Name": "x", **activation}]}
    return told | ({"Weights": {"Type": weights, "Count": 9}} if weights else {})


def nodes(case):
    """ONNX nodes of the layers, in the order of `case.asked`."""
    return [node.name for node in onnx.load(case.onnx).graph.node if node.op_type in ("Conv", "Gemm")]


def inspected(case, form, floats=()):
    layers = [layer(n, form["FP32" if n in floats else "Int8"], "Float" if n in floats else "Int8") for n in nodes(case)]
    return json.dumps({"Layers": layers, ("Bindings" if form is OLD else "I/O Tensors"): ["images", "logits"]})


@pytest.mark.parametrize("form", [OLD, NEW], ids=["10.x", "11.x"])
def test_layers_that_the_inspector_shows_in_int8_are_kept(converted, walked, form):
    case = converted("vgg", "int8", "tensorrt")
    found = walked(case, "int8", "tensorrt", inspected(case, form))
    assert (found["kept_share"], found["share"]) == (1, {"int8": 1})


@pytest.mark.parametrize("form", [OLD, NEW], ids=["10.x", "11.x"])
def test_a_layer_that_the_builder_left_in_float_is_broken_and_its_kernel_named(converted, walked, form):
    case = converted("vgg", "int8", "tensorrt")
    slow = nodes(case)[2]
    found = walked(case, "int8", "tensorrt", inspected(case, form, floats=[slow]))
    (wrong,) = [one for one in found["layers"] if one["verdict"] != "kept"]
    assert (wrong["name"], wrong["verdict"]) == (case.asked[2]["name"], "broken")
    assert "sm86_xmma_fprop, not in int8" in wrong["why"]


def test_a_layer_hidden_in_a_fused_one_stays_undecidable(converted, walked):
    case = converted("vgg", "int8", "tensorrt")
    layers = [layer(name, OLD["Int8"], "Int8") for name in nodes(case)[1:]] + ["Reformatting CopyNode"]
    found = walked(case, "int8", "tensorrt", json.dumps({"Layers": layers, "Bindings": []}))
    assert [one["name"] for one in found["layers"] if one["verdict"] == "undecidable"] == [case.asked[0]["name"]]


LAYER = FileLayer(("conv",), "Conv", ("conv", "conv_out", "/q", "/add/Add"), ("conv", "conv_out"), "w", "int8", "fp32", 9, 4, 0, 0, 0,
                  Codes("int8", 0), None, None)


@pytest.mark.parametrize(("entry", "arithmetic"), [
    ({"LayerType": "kgen", "Name": "/add/Add", "Inputs": [OLD["Int8"]]}, None),  # the Add behind a hidden convolution
    ({"LayerType": "CaskConvolution", "Name": "/add/Add", "Inputs": [OLD["Int8"]]}, "int8"),  # a convolution by the Add's name
    ({"LayerType": "Reformat", "Name": "/q", "Inputs": [OLD["FP32"]]}, None),
    ({"LayerType": "Reformat", "Name": "conv_out", "Inputs": [OLD["FP32"]]}, None),
    ({"LayerType": "kgen", "Name": "conv", "Inputs": [OLD["Int8"]]}, "int8"),
    ({"LayerType": "kgen", "Name": "conv", "Inputs": [OLD["FP32"]]}, None),  # its Q may be inside
    ({"LayerType": "CaskConvolution", "Name": "conv", "Inputs": [OLD["FP32"]]}, "fp32"),
    ({"LayerType": "CaskConvolution", "Name": "conv", "Weights": {"Type": "Int8"}}, None)])  # weights alone, perhaps
def test_an_entry_counts_by_the_layers_own_name_or_as_a_product(tmp_path, entry, arithmetic):
    (tmp_path / INSPECTED).write_text(json.dumps({"Layers": [entry]}))
    record = EngineRecord("e", "int8", "int8", "tensorrt", "1", "sm86", "", "e", "", 1, 1, "sm86", None, [])
    assert read(record, {"conv": LAYER}, {}, tmp_path)["conv"].arithmetic == arithmetic


INT8, FP32 = ({"LayerType": "CaskConvolution", "Inputs": [OLD[kind]]} for kind in ("Int8", "FP32"))


@pytest.mark.parametrize(("entries", "told"), [
    ([INT8 | {"Name": "/add/Add"}], {}),  # whose of the two it adds?
    ([INT8 | {"Name": "/add/Add"}, FP32 | {"Name": "shortcut"}], {"conv": "int8", "shortcut": "fp32"}),
    ([INT8 | {"Name": "conv + /add/Add"}], {"conv": "int8"}),
    ([INT8 | {"Name": "conv"}, FP32 | {"Name": "shortcut"}, INT8 | {"Name": "/add/Add"}], {"conv": "int8", "shortcut": "fp32"}),
    ([INT8 | {"Name": "conv_2"}, INT8 | {"Name": "my/conv"}], {})])  # a piece of a name is another name
def test_no_layer_takes_the_kernel_of_its_neighbour(tmp_path, entries, told):
    def named(name, *behind):
        return replace(LAYER, names=(name,), own=(name, f"{name}_out"), aliases=(name, f"{name}_out", *behind))

    # `before` reads into the Add too, behind another Add: it is farther from it than the two that it adds
    layers = {"before": named("before", "/add0/Add", "add0_out", "/add/Add", "add_out"),
              "conv": named("conv", "/add/Add", "add_out"), "shortcut": named("shortcut", "/add/Add", "add_out")}
    (tmp_path / INSPECTED).write_text(json.dumps({"Layers": entries}))
    record = EngineRecord("e", "int8", "int8", "tensorrt", "1", "sm86", "", "e", "", 1, 1, "sm86", None, [])
    found = read(record, layers, {}, tmp_path)
    assert {name: ran.arithmetic for name, ran in found.items() if ran.arithmetic} == told


def test_a_damaged_inspector_file_decides_nothing(converted, walked):
    assert walked(converted("vgg", "int8", "tensorrt"), "int8", "tensorrt", "not json")["undecidable_share"] == 1
