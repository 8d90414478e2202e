"""The inspector's JSON, written by hand after NVIDIA's documentation: none was recorded, as no GPU was at hand."""

import json

import onnx
import pytest

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


def test_a_damaged_inspector_file_decides_nothing(converted, walked):
    assert walked(converted("vgg", "int8", "tensorrt"), "int8", "tensorrt", "not json")["undecidable_share"] == 1
