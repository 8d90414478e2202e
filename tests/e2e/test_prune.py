"""Unstructured pruning as a user runs it: zeros in the files that ship, rounds that go on where they were killed."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from refusal import refused
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "recipes" / "prune" / "digits"
UNSTRUCTURED = sorted(path.stem for path in DIGITS.glob("*.yaml")
                      if path.stem.startswith(("iterative", "lottery", "magnitude", "sparse24")))
QUICK = ("train.epochs=2", "measure.rounds=2", "measure.runs_per_round=1", "measure.warmup=1",
         "measure.throughput_batches=[1]", "measure.gradcam_images=0", "quantize.calibration.images=16")


def sets(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


def command(method: str, *overrides: str) -> list[str]:
    """The words of a short build; a fine-tuning lasts one epoch."""
    tuned = ("prune.finetune.epochs=1",) if "lottery" not in method else ()
    return ["build", str(DIGITS / f"{method}.yaml"), *sets(*QUICK, *tuned, *overrides)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished stages of this file's builds: the unpruned student is trained once."""
    return tmp_path_factory.mktemp("cache")


def stage(cache: Path, out: Path, name: str) -> Path:
    """The folder of a finished build's stage."""
    stages = json.loads((out / "report.json").read_text())["stages"]
    return cache / f"{name}-{next(s['key'] for s in stages if s['name'] == name)[:16]}"


def weights(folder: Path) -> dict[str, np.ndarray]:
    """Layer -> weight of a stored network, convolutions and the head alone."""
    return {name.removesuffix(".weight"): value for name, value in load_file(folder / "model.safetensors").items()
            if name.endswith(".weight") and value.ndim > 1}


def in_onnx(path: Path) -> list[np.ndarray]:
    """The weights as stored: float32, or int8 whose zero_point is 0."""
    return [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer if len(tensor.dims) in (2, 4)]


def zeros_in_onnx(path: Path) -> list[int]:
    """How many zeros each weight has, ascending."""
    return sorted(int((values == 0).sum()) for values in in_onnx(path))


def check_sizes(report: dict[str, Any], pruned: dict[str, np.ndarray]) -> None:
    """What the report says of the zeros, against those in the student's weights."""
    values, nonzero = sum(v.size for v in pruned.values()), sum(np.count_nonzero(v) for v in pruned.values())
    fp32, int8 = report["engines"]
    assert fp32["weight_bytes"] - fp32["bitmap_bytes"] == sum(
        4 * v.size - -(-(32 * np.count_nonzero(v) + v.size) // 8) for v in pruned.values())
    assert 0 < int8["bitmap_bytes"] < int8["weight_bytes"]
    facts = report["pruning"]
    assert facts["unstructured"] and (facts["after"]["weights"], facts["after"]["zeros"]) == (values, values - nonzero)
    assert {layer["name"]: sum(layer["histogram"]["after"]) for layer in facts["layers"]} == {
        name: np.count_nonzero(v) for name, v in pruned.items()}
    assert facts["gradcam"] is None and facts["gradcam_reason"] == "measure.gradcam_images is 0"
    assert [engine["name"] for engine in report["unpruned"]] == ["unpruned.fp32.onnxruntime.cpu_x86"]
    assert all(engine["speedup_vs_unpruned"]["value"] > 0 for engine in report["engines"])


@pytest.mark.parametrize("method", UNSTRUCTURED)
def test_every_method_leaves_exact_zeros_in_the_fp32_and_the_int8_file(
    toolchain: Any, tmp_path: Path, cache: Path, method: str
) -> None:
    done = toolchain(*command(method), "--out", tmp_path, "--cache", cache)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert [e["precision"] for e in report["engines"]] == ["fp32", "int8"] and all(e["measured"] for e in report["engines"])
    history = json.loads((tmp_path / "student" / "architecture.json").read_text())["pruned"]
    pruned = weights(tmp_path / "student")
    assert history["density"] == {name: np.count_nonzero(value) / value.size for name, value in pruned.items()}
    kept = sum(np.count_nonzero(value) for value in pruned.values()) / sum(value.size for value in pruned.values())
    assert history["sparsity_prunable"] == pytest.approx(1 - kept)
    counts = sorted(value.size - np.count_nonzero(value) for value in pruned.values())
    assert zeros_in_onnx(tmp_path / "onnx/model.fp32.cpu_x86.onnx") == counts
    rounded = zeros_in_onnx(tmp_path / "onnx/model.int8.cpu_x86.onnx")
    assert len(rounded) == len(counts) and all(int8 >= fp32 for int8, fp32 in zip(rounded, counts, strict=True))
    expected = {"magnitude": 0.7, "iterative": 1 - 0.8**4, "lottery": 1 - 0.8**2}.get(method.split("_")[0])
    if expected is not None:
        assert history["sparsity_prunable"] == pytest.approx(expected, abs=1e-3)
        assert [r["sparsity_prunable"] for r in history["rounds"]][-1] == history["sparsity_prunable"]
    check_sizes(report, pruned)
    folder = stage(cache, tmp_path, "prune")
    assert not list(folder.glob("round_*")) and not (folder / "rewind").exists()
    epochs = json.loads((folder / "history.json").read_text())
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, len(epochs) + 1))


def test_a_smaller_network_is_shown_beside_the_one_it_was(toolchain: Any, tmp_path: Path, cache: Path) -> None:
    done = toolchain(*command("channels", "measure.gradcam_images=40"), "--out", tmp_path, "--cache", cache)
    assert done.returncode == 0, done.stderr
    assert "Against the unpruned FP32 engine" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    facts, (reference,) = report["pruning"], report["unpruned"]
    before, after = weights(stage(cache, tmp_path, "train")), weights(tmp_path / "student")
    assert {layer["name"]: (layer["shape"], layer["after"][0]["shape"]) for layer in facts["layers"]} == {
        name: (list(value.shape), list(after[name].shape)) for name, value in before.items()}
    assert reference["weight_bytes"] > report["engines"][0]["weight_bytes"]
    assert not list((tmp_path / "engines").glob("unpruned*")) and not list((tmp_path / "onnx").glob("*unpruned*"))
    assert facts["gradcam_images"] == 40 and facts["gradcam"]["sheet"] == "pruned_gradcam.png"
    assert (tmp_path / "pruned_gradcam.png").read_bytes()[1:4] == b"PNG"
    planned = toolchain("plan", *command("channels")[1:], "--out", tmp_path, "--cache", cache)  # without maps
    to_do = [line.split()[0] for line in planned.stdout.splitlines() if "to do" in line]
    assert [name for name in to_do if name.isidentifier()] == ["pruned_facts"], planned.stdout


def test_both_files_hold_at_most_two_of_every_four_weights(toolchain: Any, tmp_path: Path, cache: Path) -> None:
    done = toolchain(*command("sparse24"), "--out", tmp_path, "--cache", cache)
    assert done.returncode == 0, done.stderr
    history = json.loads((tmp_path / "student/architecture.json").read_text())["pruned"]
    assert history["skipped"] == {"features.0": [16, 3, 3, 3], "classifier": [10, 128]}
    for precision in ("fp32", "int8"):
        sparse = [values for values in in_onnx(tmp_path / f"onnx/model.{precision}.cpu_x86.onnx")
                  if values.ndim == 4 and values.shape[1] % 16 == 0]
        assert len(sparse) == len(history["sparse_layers"]) == 7
        for values in sparse:
            k, c, r, s = values.shape
            assert (values.reshape(k, c // 4, 4, r, s) != 0).sum(axis=2).max() <= 2


def test_int4_codes_of_zeros_are_zero_too(toolchain: Any, tmp_path: Path, cache: Path) -> None:
    engines = "engines=[{runtime: onnxruntime, precision: fp32}, {runtime: onnxruntime, precision: int4}]"
    done = toolchain(*command("magnitude_layer", engines), "--out", tmp_path, "--cache", cache)
    assert done.returncode == 0, done.stderr
    pruned = sorted((value.size, value.size - np.count_nonzero(value)) for value in weights(tmp_path / "student").values())
    graph = onnx.load(tmp_path / "onnx/model.int4.cpu_x86.onnx").graph
    codes = [numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT4]
    stored = sorted((values.size, int((values == 0).sum())) for values in codes)
    assert [size for size, _ in stored] == [size for size, _ in pruned]
    assert all(int4 >= fp32 for (_, int4), (_, fp32) in zip(stored, pruned, strict=True))


def test_rounds_reproduce_the_series(toolchain: Any, tmp_path: Path, cache: Path) -> None:
    done = toolchain(*command("iterative", "prune.finetune.epochs=0", "prune.rounds=6"), "--out", tmp_path, "--cache", cache)
    assert done.returncode == 0, done.stderr
    rounds = json.loads((tmp_path / "student/architecture.json").read_text())["pruned"]["rounds"]
    assert [r["round"] for r in rounds] == [1, 2, 3, 4, 5, 6]
    total = left = sum(value.size for value in weights(tmp_path / "student").values())
    for record in rounds:
        left -= round(0.2 * left)
        assert record["sparsity_prunable"] == pytest.approx(1 - left / total, abs=1e-12)
        assert record["sparsity_prunable"] == pytest.approx(1 - 0.8 ** record["round"], abs=1e-5)


def test_a_ticket_goes_back_to_the_very_weights_that_training_began_with(
    toolchain: Any, tmp_path: Path, cache: Path
) -> None:
    short = ("train.epochs=0", "prune.rounds=1", "prune.rewind_epoch=0")  # nothing is trained: begin and end are one
    done = toolchain(*command("lottery", *short), "--out", tmp_path, "--cache", cache)
    assert done.returncode == 0, done.stderr
    before = load_file(stage(cache, tmp_path, "train") / "model.safetensors")
    after = load_file(stage(cache, tmp_path, "prune") / "model.safetensors")
    for name, value in before.items():
        expected = np.where(after[name] == 0, np.float32(0), value) if value.ndim > 1 else value
        assert after[name].tobytes() == expected.tobytes(), name


@pytest.mark.parametrize(("method", "overrides"), [
    ("iterative", ("prune.rounds=3", "prune.finetune.epochs=2")), ("lottery", ("train.epochs=3", "prune.rounds=3"))])
def test_a_build_killed_in_its_second_round_ends_with_the_weights_of_an_undisturbed_one(
    toolchain: Any, tmp_path: Path, method: str, overrides: tuple[str, ...]
) -> None:
    words, cut = command(method, "model.width=0.125", *overrides), tmp_path / "cut"
    process = subprocess.Popen([sys.executable, "-m", "toolchain", *words, "--out", str(cut)], cwd=ROOT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list((cut / "stages").glob("prune-*.partial/round_2/checkpoints/checkpoint.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = toolchain(*words, "--out", cut)
    assert done.returncode == 0, done.stderr
    assert "prune: round 1 of 3 was finished before" in done.stderr
    assert "prune: round 2 of 3: resumed after epoch" in done.stderr
    whole = toolchain(*words, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    for file in ("model.safetensors", "architecture.json"):
        assert (cut / "student" / file).read_bytes() == (tmp_path / "whole" / "student" / file).read_bytes()


def test_pruning_in_rounds_can_be_taught_by_a_teacher(toolchain: Any, tmp_path: Path, cache: Path) -> None:
    teacher = "distill={method: hints, teacher: {model: {arch: vgg11_bn, width: 0.25}, train: {epochs: 1}}}"
    done = toolchain(*command("iterative", "prune.rounds=2", teacher), "--out", tmp_path, "--cache", cache)
    assert done.returncode == 0, done.stderr
    folder = stage(cache, tmp_path, "prune")
    history = json.loads((folder / "history.json").read_text())
    assert [epoch["round"] for epoch in history] == [1, 2] and all(epoch["parts"]["method"] > 0 for epoch in history)
    assert json.loads((folder / "taught.json").read_text())["method"] == "hints"


@pytest.mark.parametrize(("method", "overrides", "words"), [
    ("magnitude_layer", ("prune.amount=0.995",), (2, "only 0.5 % of the weights would be left")),
    ("sparse24", ("model.width=0.02",), (4, "needs a layer whose outputs are a multiple of 8", "features.0 [8, 3, 3, 3]")),
])
def test_what_would_empty_a_layer_or_fits_none_is_refused(
    toolchain: Any, tmp_path: Path, method: str, overrides: tuple[str, ...], words: tuple[Any, ...]
) -> None:
    done = toolchain(*command(method, "train.epochs=0", *overrides), "--out", tmp_path, timeout=120)
    refused(done, *words)
