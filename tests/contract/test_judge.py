"""Verdicts and shares worked by hand."""

from dataclasses import replace

import numpy as np
import pytest

from toolchain.contract import READERS, summed
from toolchain.contract.engine_file import FileLayer, Join
from toolchain.contract.judge import Judged, judge, judge_join
from toolchain.contract.numbers import dead, distance, judged
from toolchain.contract.ran import Ran, assigned, plain_name
from toolchain.contract.trace import Codes
from toolchain.engines import BACKENDS
from toolchain.engines.record import EngineRecord

RECORD = EngineRecord("int8.onnxruntime.cpu_x86", "int8", "int8", "onnxruntime", "1", "cpu_x86", "", "engine.onnx", "", 1, 1,
                      "cpu", None, [])
LAYER = FileLayer(("conv",), "Conv", ("conv",), ("conv",), "w", "int8", "fp32", 9, 4, 0, 0, 0, Codes("uint8", 0), Codes("uint8", 0), None)


def verdict(asked, layer=LAYER, arithmetic="int8", record=RECORD):
    return judge("conv", "Conv", asked, 10, layer, Ran(arithmetic, "told"), record)


def one(name, realised, macs, kept="kept", why=""):
    return Judged(name, "Conv", "int8", realised, macs, kept, why)


def test_every_runtime_has_a_reader():
    assert set(READERS) == set(BACKENDS)


def test_shares_are_of_multiply_adds():
    layers = [one("a", "int8", 60), one("b", "fp32", 30, "broken", "slow"), one("c", None, 10, "undecidable", "hidden"),
              one("d", "fp32", 0, "broken", "slow")]
    found = summed(RECORD, layers, None)
    assert found["share"] == {"int8": 0.6, "fp32": 0.3}  # 60 and 30 of 100; what cannot be told is in neither
    assert (found["kept_share"], found["undecidable_share"]) == (0.6, 0.1)
    assert found["reasons"] == {"slow": 2, "hidden": 1}


def test_without_known_multiply_adds_layers_count_alike():
    layers = [one("a", "int8", None), one("b", "fp32", None, "broken", "x")]
    assert summed(RECORD, layers, None)["kept_share"] == 0.5
    add = replace(one("add", None, 40, "broken", "x"), op="Add")  # its size alone being known changes nothing of that
    assert summed(RECORD, [*layers, one("c", "int8", None), add], None)["kept_share"] == 0.5


def test_a_form_of_storage_is_kept_when_the_weights_lie_so_and_the_arithmetic_is_what_the_runtime_said():
    stored = replace(LAYER, stored="fp16", scale_axis=None, taken=None, given=None)
    record = replace(RECORD, precision="fp16", compute="fp32")
    assert verdict("fp16", stored, "fp32", record).verdict == "kept"
    assert verdict("fp16", replace(stored, arithmetic="fp16"), "fp32", record).verdict == "broken"  # the graph is in half
    assert verdict("fp16", replace(stored, stored="fp32"), "fp32", record).why == "its weights lie as fp32 in the file, not as fp16"


def test_integer_weights_under_float_arithmetic_are_weight_only():
    found = verdict("int8", arithmetic="fp32")
    assert (found.verdict, found.realised) == ("broken", "int8_weight_only")
    assert verdict("int8_weight_only", replace(LAYER, taken=None), "fp32").verdict == "kept"


def test_what_the_runtime_does_not_tell_is_undecidable_unless_the_file_is_wrong_already():
    assert verdict("int8", arithmetic=None).verdict == "undecidable"
    assert verdict("int8", replace(LAYER, taken=None), None).verdict == "broken"


def test_tensorrt_adds_the_trunk_in_float_and_other_runtimes_nothing():
    add = Join("add", ("add",), 2, ("trunk",), 40)
    assert judge_join(add, None, "tensorrt") is None
    broken = judge_join(add, None, "onnxruntime")
    assert (broken.verdict, broken.macs) == ("broken", 40)  # it weighs its additions
    assert summed(RECORD, [one("a", "int8", 160), broken], None)["kept_share"] == 0.8


@pytest.mark.parametrize(("name", "node"), [
    ("fused /conv1/Conv", "/conv1/Conv"), ("/conv1/Conv_token_7", "/conv1/Conv"), ("/conv1/Conv/WithoutBiases", "/conv1/Conv"),
    ("InsertedPrecisionFreeCast_/relu/Relu_output_0_nchwc", "/relu/Relu_output_0")])
def test_the_names_that_fusions_leave_are_undone(name, node):
    assert plain_name(name) == node


def test_a_kernel_goes_to_the_layer_whose_name_is_nearest():
    first, second = replace(LAYER, aliases=("a", "a_out", "add")), replace(LAYER, aliases=("b", "b_out", "add"))
    found = assigned([(["add"], {"op": "X"}), (["a_out"], {"op": "Y"})], {"a": first, "b": second})
    assert {name: kernel["op"] for name, kernel in found.items()} == {"a": "Y", "b": "X"}


def test_distances_of_logits():
    assert distance(np.array([3.0, 4.0]), np.array([0.0, 5.0])) == pytest.approx(10**0.5 / 5)  # |(3, -1)| / 5
    assert distance(np.array([np.nan]), np.ones(1)) is None


@pytest.mark.parametrize(("numbers", "precision", "compute", "verdict"), [
    ((None, 0.1, 0.1), "fp16", "fp16", "broken"),
    ((0.1, 0.1, None), "fp16", "fp16", "undecidable"),  # nothing to compare with
    ((0.15, 0.2, 0.05), "int8", "int8", "broken"),  # above 0.1 and above twice the rounding
    ((0.15, 0.2, 0.08), "int8", "int8", "kept"),
    ((0.05, 1.5, 1.5), "int8", "int8", "broken"), ((0.005, 1.5, 1.5), "int4", "fp32", "undecidable"),
    ((1.0, 1.0, 0.5), "int8", "int8", "broken"),  # all its logits are 0, whatever the file's rounding
    ((0.05, 1.0, 0.2), "int8", "int8", "broken"),
    ((2, 3, 1), "mixed", "mixed", "broken"),
    ((0.5, 0.6, 0.4), "int8", "int8", "undecidable"),  # so coarse a file may move so far by itself
    ((0.05, 0.4, 0.4), "int8", "int8", "undecidable"), ((0.005, 0.31, 0.31), "int4", "fp32", "undecidable"),
    ((0.05, 0.3, 0.3), "int8", "int8", "kept"), ((0.005, 0.3, 0.3), "int4", "fp32", "kept"),
    ((0.012, 0.2, 0.2), "int4", "fp32", "broken"),  # inputs rounded to INT8 are no FP32 arithmetic
    ((0.012, 0.2, 0.2), "int4", "fp16", "kept")])
def test_distances_are_judged_by_what_rounding_explains(numbers, precision, compute, verdict):
    assert judged(*numbers, precision, compute)[0] == verdict


TOLD = np.array([[4.0, 0.0, 1.0], [0.0, 4.0, 1.0]])


@pytest.mark.parametrize(("logits", "words"), [
    (np.zeros((2, 3)), "it answers every image alike"), (np.array([[4.0, 0, 1], [4, 0, 1]]), "it answers every image alike"),
    (np.array([[4.0, 4, 4], [1, 1, 1]]), "it gives all classes the same logit"),
    (TOLD / 2, None), (TOLD + 100, None), (TOLD[:, ::-1], None)])  # far away, but not dead
def test_logits_that_tell_nothing_are_dead_however_coarse_the_format(logits, words):
    assert (dead(logits, TOLD) or "None").startswith(str(words))


def test_a_network_that_is_dead_in_float_too_is_no_fault_of_its_engine():
    assert dead(np.ones((2, 3)), np.ones((2, 3))) is None
    assert dead(np.array([[3.0], [4.0]]), np.array([[3.0], [4.0]])) is None  # one class has nothing to differ from


def test_a_form_of_storage_says_what_it_is_computed_in():
    stored = replace(LAYER, stored="int4", taken=None)
    kept = verdict("int4", stored, "fp32", replace(RECORD, precision="int4", compute="fp32"))
    assert (kept.verdict, kept.realised, kept.arithmetic) == ("kept", "int4", "fp32")
    found = summed(RECORD, [replace(kept, macs=30), verdict("int8"), verdict("int8", arithmetic=None)], None)
    assert found["share"] == {"int4": 0.6, "int8": 0.2} and found["arithmetic"] == {"fp32": 0.6, "int8": 0.2}  # of 50
