"""Facts of a tiny pruned network against numpy's own counts, and zeros as ONNX files hold them."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from toolchain.measure.storage import StoredWeight
from toolchain.steps.pruned_facts import (
    _val_top1,
    choice_of,
    epochs_of,
    histogram,
    network_facts,
    rounds_of,
    stored_weights,
)


def network(width: int) -> nn.Sequential:
    torch.manual_seed(width)
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


def test_widths_zeros_and_costs_before_and_after_are_those_counted_by_hand() -> None:
    before, after = network(6), network(4)
    with torch.no_grad():
        after[0].weight[1] = 0
    facts = network_facts(before, after, 8)
    assert facts["before"] == {"parameters": 168 + 35, "macs": 6 * 64 * 27 + 30, "weights": 162 + 30, "zeros": 0}
    assert facts["after"] == {"parameters": 112 + 25, "macs": 4 * 64 * 27 + 20, "weights": 108 + 20, "zeros": 27}
    conv, linear = facts["layers"]
    assert (conv["name"], conv["shape"], conv["after"]) == ("0", [6, 3, 3, 3], [{"name": "0", "shape": [4, 3, 3, 3]}])
    assert (conv["weights"], conv["weights_after"], conv["zeros_after"]) == (162, 108, 27)
    assert (linear["macs"], linear["macs_after"], linear["zeros_after"]) == (30, 20, 0)


def test_a_factorized_layer_names_its_factors_and_has_no_histogram() -> None:
    before, after = network(6), network(6)
    after[4] = nn.Sequential(nn.Linear(6, 2, bias=False), nn.Linear(2, 5))
    linear = network_facts(before, after, 8)["layers"][1]
    assert linear["after"] == [{"name": "4.0", "shape": [2, 6]}, {"name": "4.1", "shape": [5, 2]}]
    assert (linear["weights"], linear["weights_after"], linear["macs_after"]) == (30, 22, 22)
    assert linear["histogram"] is None


def test_histograms_share_a_symmetric_range_and_leave_zeros_out() -> None:
    before = torch.tensor([-2.0, -1.0, 0.0, 0.01, 1.99, 2.0])
    found = histogram(before, torch.tensor([0.0, 0.0, -0.5]))
    assert found["limit"] == 2.0 and len(found["before"]) == len(found["after"]) == 64
    nonzero = np.array([-2.0, -1.0, 0.01, 1.99, 2.0])
    bins = np.minimum(np.floor((nonzero + 2.0) / (4.0 / 64)).astype(int), 63)  # the upper end belongs to the last bin
    assert found["before"] == np.bincount(bins, minlength=64).tolist()
    assert [i for i, n in enumerate(found["after"]) if n] == [24]  # (-0.5 + 2) / (4 / 64)
    assert histogram(torch.zeros(3), torch.zeros(3)) == {"limit": 0.0, "before": [0] * 64, "after": [0] * 64}


def test_rounds_say_what_is_removed_as_their_method_counts_it() -> None:
    sparse = {"rounds": [{"round": 1, "epochs": 2, "val_top1": 90.0, "sparsity_prunable": 0.2, "sparsity_all": 0.19}]}
    assert rounds_of(sparse, 100) == [{"round": 1, "epochs": 2, "val_top1_percent": 90.0, "removed": 0.2, "parameters": None, "macs": None}]
    smaller = {"rounds": [{"round": 1, "epochs": 0, "val_top1": 80.0, "parameters": 25, "macs": 7}]}
    assert rounds_of(smaller, 100)[0]["removed"] == 0.75
    assert rounds_of({}, 100) == []


RATIO = {"value": 1.25, "low": 1.2, "high": 1.3}


def test_latency_checks_keep_what_was_predicted_and_measured_and_which_engine_decided() -> None:
    check = {"widths": {"a": 3}, "predicted_ms": 1.5, "measured_ms": 1.6, "unpruned_ms": 2.0, "faster": RATIO, "accepted": True}
    latency = {"engine": "fp32.tensorrt.cuda", "budget": 0.8, "batch": 4, "unpruned_ms": 2.0, "pruned_ms": 1.6, "speedup": RATIO}
    found = choice_of({"method": "latency", "latency": {**latency, "checks": [check]}})
    assert found["checks"] == [{"predicted_ms": 1.5, "measured_ms": 1.6, "unpruned_ms": 2.0, "accepted": True}]
    assert (found["decided"], found["factorizing"], found["skipped"]) == (latency, [], [])


def test_low_rank_tells_each_layer_that_was_timed_and_without_an_engine_none() -> None:
    history = {"method": "low_rank", "layers": {"a": {"scheme": "svd", "ranks": [4], "shape": [8, 9], "ratio": RATIO}},
               "rejected": {"b": {"ranks": [2, 3], "ratio": RATIO}},
               "latency": {"engine": "e", "batch": 1, "threads": 1, "before_p50_ms": 2.0, "after_p50_ms": 1.6, "speedup": RATIO}}
    found = choice_of(history)
    assert found["factorizing"] == [{"name": "a", "ranks": [4], "speedup": RATIO, "accepted": True},
                                    {"name": "b", "ranks": [2, 3], "speedup": RATIO, "accepted": False}]
    assert found["decided"] == {"engine": "e", "batch": 1, "budget": None, "speedup": RATIO, "unpruned_ms": 2.0, "pruned_ms": 1.6}
    alone = choice_of({"method": "low_rank", "layers": {"a": {"scheme": "svd", "ranks": [4], "shape": [8, 9]}}, "rejected": {}, "latency": None})
    assert alone["factorizing"] == [{"name": "a", "ranks": [4], "speedup": None, "accepted": True}] and alone["decided"] is None


def test_layers_that_2_4_skipped_are_named_and_no_other_methods() -> None:
    assert choice_of({"method": "sparse24", "sparse_layers": ["b"], "skipped": {"a": [10, 3]}})["skipped"] == ["a"]
    assert choice_of({"method": "channels", "layers": {"a": 1}, "skipped": {"a": 1}}) == {
        "decided": None, "checks": [], "factorizing": [], "skipped": []}


def test_the_epochs_of_group_lasso_count_beside_those_of_the_rounds(tmp_path: Path) -> None:
    history = {"rounds": [{"epochs": 2}, {"epochs": 1}]}
    assert epochs_of(tmp_path, history) == 3
    (tmp_path / "history.json").write_text('[{"round": 0}, {"round": 0}, {"round": 1}, {"round": 1}, {"round": 2}]')
    assert epochs_of(tmp_path, history) == 5


def test_the_unpruned_top1_of_mutual_learning_is_the_best_peers(tmp_path: Path) -> None:
    (tmp_path / "taught.json").write_text('{"method": "mutual", "peers_val_top1": [70.0, 75.0], "best": 1}')
    assert _val_top1(None, tmp_path, nn.Identity()) == 75.0  # type: ignore[arg-type]


def onnx_file(path: Path, weight: onnx.TensorProto, nodes: list[onnx.NodeProto], *more: onnx.TensorProto) -> Path:
    """images -> nodes -> logits, with these tensors stored."""
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 8])],
                              [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])], [weight, *more])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)
    return path


def stored(name: str, array: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(array, name)


@pytest.mark.parametrize(("dtype", "bits"), [(np.float32, 32), (np.float16, 16), (np.int8, 8), (ml_dtypes.int4, 4)])
def test_zeros_are_counted_in_the_weight_as_the_file_stores_it(tmp_path: Path, dtype: type, bits: int) -> None:
    array = np.array([[1, 0, 0, 2], [0, 0, 0, 1], [3, 1, 0, 2], [0, 0, 0, 0]] * 2).astype(dtype)  # (8 inputs, 4 outputs)
    if bits in (8, 4):
        scale = stored("scale", np.ones(4, np.float32))
        nodes = [helper.make_node("DequantizeLinear", ["w", "scale"], ["float"], axis=1),
                 helper.make_node("MatMul", ["images", "float"], ["logits"])]
        path = onnx_file(tmp_path / "m.onnx", stored("w", array), nodes, scale)
    else:
        cast = helper.make_node("Cast", ["w"], ["float"], to=TensorProto.FLOAT)
        path = onnx_file(tmp_path / "m.onnx", stored("w", array), [cast, helper.make_node("MatMul", ["images", "float"], ["logits"])])
    assert stored_weights(path) == [StoredWeight("w", 32, 12, bits, two_of_four=False)]  # the last output has 3 of its 4


def test_two_of_four_is_seen_along_the_inputs(tmp_path: Path) -> None:
    array = np.array([[1, 0, 5, 2], [0, 2, 0, 1], [3, 1, 0, 0], [0, 0, 6, 0]] * 2, np.float32)
    path = onnx_file(tmp_path / "m.onnx", stored("w", array), [helper.make_node("MatMul", ["images", "w"], ["logits"])])
    assert [weight.two_of_four for weight in stored_weights(path)] == [True]
