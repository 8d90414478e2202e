"""No false alarm: engines that our own conversions make keep the contract, in every precision, on every runtime."""

import pytest

NETWORKS = ("vgg", "resnet18", "mobilenet_v2", "squeezenet")


@pytest.mark.parametrize(("name", "precision"), [
    *((name, precision) for name in NETWORKS for precision in ("int8", "int4")),
    *(("resnet18", precision) for precision in ("fp32", "fp16", "bf16", "int8_weight_only")), ("squeezenet", "fp32")])
def test_onnxruntime_keeps_what_was_asked_of_every_layer(converted, held, name, precision):
    found = held(converted(name, precision, "cpu_x86"), "onnxruntime", precision, numbers=True)
    assert (found["kept_share"], found["undecidable_share"], found["reasons"]) == (1, 0, {})
    coarse = name == "squeezenet" and precision != "fp32"  # untrained, its logits are mostly rounding
    assert found["numbers"]["verdict"] == ("undecidable" if coarse else "kept")
    assert sum(found["share"].values()) == pytest.approx(1)
    assert set(found["share"]) <= {precision, "int8_weight_only"}  # INT4: depthwise layers have INT8 weights
    assert found["share"][precision] == 1 or precision == "int4"
    assert found["arithmetic"] == {"int8" if precision == "int8" else "fp32": 1}  # the rest is a form of storage


@pytest.mark.parametrize(("name", "precision"), [*((name, "int8") for name in ("vgg", "resnet18", "mobilenet_v2")),
                                                   *(("vgg", precision) for precision in ("bf16", "int8_weight_only", "int4"))])
def test_openvino_keeps_what_was_asked_of_every_layer(converted, held, name, precision):
    openvino = pytest.importorskip("toolchain.engines.openvino")
    if openvino.missing() or precision == "bf16" and "BF16" not in openvino.cpu_capabilities():
        pytest.skip("OpenVINO, or bf16 on this CPU, is missing")
    found = held(converted(name, precision, "openvino"), "openvino", precision, numbers=True)
    assert (found["kept_share"], found["reasons"], found["numbers"]["verdict"]) == (1, {}, "kept")
    assert found["share"] == {precision: 1}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int4"])
@pytest.mark.parametrize("name", ["vgg", "resnet18"])
def test_a_strongly_typed_tensorrt_network_binds_its_float_layers(converted, walked, name, precision):
    found = walked(converted(name, precision, "tensorrt"), precision)
    assert (found["kept_share"], found["reasons"]) == (1, {})


@pytest.mark.parametrize("name", ["vgg", "resnet18"])
def test_integer_layers_of_an_engine_that_cannot_be_opened_are_undecidable_and_not_fine(converted, walked, name):
    found = walked(converted(name, "int8", "tensorrt"), "int8")
    assert (found["kept_share"], found["undecidable_share"], found["share"]) == (0, 1, {})
    (reason,) = found["reasons"]
    assert "hidden: the engine can be opened on a GPU alone" in reason
