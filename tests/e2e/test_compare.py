"""`toolchain compare` as a user runs it, on builds that take seconds."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FP32, INT8 = "fp32.onnxruntime.cpu_x86", "int8.onnxruntime.cpu_x86"
RECIPE = """\
name: tiny
data: {source: digits}
model: {arch: vgg11_bn, form: cifar, width: 0.125}
train: {epochs: 1}
quantize: {method: ptq, calibrator: max, calibration: {images: 32}}
measure: {warmup: 1, rounds: 2, runs_per_round: 1, throughput_batches: [1]}
engines: [{runtime: onnxruntime, precision: fp32}, {runtime: onnxruntime, precision: int8}]
"""
Toolchain = Callable[..., Any]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def builds(toolchain: Toolchain, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two finished builds of the same recipe from two seeds: (teacher, student)."""
    root = tmp_path_factory.mktemp("builds")
    for seed, name in enumerate(("teacher", "student")):
        done = toolchain("build", recipe, "--set", f"seed={seed}", "--out", root / name, "--cache", root / "cache")
        assert done.returncode == 0, done.stderr
    return root / "teacher", root / "student"


def compared(toolchain: Toolchain, out: Path, *words: object) -> tuple[dict[str, Any], str]:
    """(compare.json, stdout) of a run that must succeed."""
    done = toolchain("compare", *words, "--out", out)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "compare.json").read_text()), done.stdout


def refused(done: Any, code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr + done.stdout
    assert len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def log_softmax_by_hand(engine: Path) -> tuple[np.ndarray, np.ndarray]:
    """((N, K) float64 log-probabilities, (N,) labels) of the test set, from ONNX Runtime itself."""
    import onnxruntime as ort

    from toolchain.data import batches, load_dataset
    from toolchain.recipe.schema import Digits

    data = load_dataset(Digits(source="digits"), [])
    session = ort.InferenceSession(str(engine), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    logits = np.concatenate([session.run(None, {name: images})[0]
                             for images, _ in batches(data.test, data.preprocess, 64)]).astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), data.test.labels


def test_a_build_compared_with_itself_has_no_distance(toolchain: Toolchain, builds: tuple[Path, Path], tmp_path: Path) -> None:
    found, shown = compared(toolchain, tmp_path, builds[0], builds[0])
    [row] = found["students"]
    assert row["kl_nats"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert row["js_nats"] == 0.0 and row["agreement_percent"]["value"] == 100.0
    assert row["top1_percent"] == found["teacher"]["top1_percent"]
    assert row["gradcam"] is None and "own build" in row["gradcam_reason"]
    assert "teacher (2)" in shown


def test_figures_agree_with_onnx_runtime_and_numpy(toolchain: Toolchain, builds: tuple[Path, Path], tmp_path: Path) -> None:
    teacher, student = builds
    words = (teacher, student, f"{teacher}:{INT8}", "--no-gradcam")
    found, _ = compared(toolchain, tmp_path, *words)
    assert compared(toolchain, tmp_path / "again", *words)[0] == found
    log_p, labels = log_softmax_by_hand(teacher / "engines" / FP32 / "engine.onnx")
    assert found["images"] == len(labels) and not (tmp_path / "gradcam.png").exists()
    folders = (student / "engines" / FP32, teacher / "engines" / INT8)
    for row, folder in zip(found["students"], folders, strict=True):
        log_q, _ = log_softmax_by_hand(folder / "engine.onnx")
        p, q, middle = np.exp(log_p), np.exp(log_q), (np.exp(log_p) + np.exp(log_q)) / 2
        kl = (p * (log_p - log_q)).sum(axis=1)
        js = ((p * np.log(p / middle)).sum(axis=1) + (q * np.log(q / middle)).sum(axis=1)) / 2
        assert row["kl_nats"]["value"] == pytest.approx(kl.mean(), rel=1e-2, abs=1e-9)
        assert row["js_nats"] == pytest.approx(js.mean(), rel=1e-2, abs=1e-9)
        one_image = 100 / len(labels)  # batches of another size may round a tie to the other side
        assert row["top1_percent"] == pytest.approx(100 * np.mean(q.argmax(axis=1) == labels), abs=one_image)
        agreement = 100 * np.mean(q.argmax(axis=1) == p.argmax(axis=1))
        assert row["agreement_percent"]["value"] == pytest.approx(agreement, abs=one_image)
    assert [row["engine"] for row in found["students"]] == [FP32, INT8]


def test_students_are_compared_with_the_first_one_and_all_is_written(
        toolchain: Toolchain, builds: tuple[Path, Path], tmp_path: Path) -> None:
    from PIL import Image

    teacher, student = builds
    found, shown = compared(toolchain, tmp_path, teacher, student, f"{student}:{INT8}", "--jitter")
    [difference] = found["differences"]
    assert (difference["name"], difference["versus"]) == (f"student:{INT8}", "student")
    arrays = np.load(tmp_path / "compare.npz", allow_pickle=False)
    change = arrays[f"student:{INT8}.kl_nats"] - arrays["student.kl_nats"]
    assert difference["kl_nats"]["value"] == pytest.approx(change.mean(), rel=1e-9)
    assert difference["kl_nats"]["low"] <= change.mean() <= difference["kl_nats"]["high"]
    assert difference["jittered_top1_percent"]["verdict"] in ("higher", "lower", "no difference")
    maps = found["students"][0]["gradcam"]
    assert maps["grid"] == [4, 4] and -1 <= maps["random_centred_cosine"] <= maps["random_cosine"] <= 1
    assert maps["cosine"]["value"] == pytest.approx(arrays["student.gradcam.cosine"].mean(), rel=1e-9)
    assert Image.open(tmp_path / "gradcam.png").width > 4 * 192  # image, teacher, two students
    text = (tmp_path / "compare.md").read_text()
    assert f"student:{INT8} against student" in shown and "](gradcam.png)" in text and "Jittered top-1 %" in text


def test_onnx_files_are_judged_on_the_data_of_a_recipe(
        toolchain: Toolchain, builds: tuple[Path, Path], recipe: Path, tmp_path: Path) -> None:
    onnx = [build / "onnx" / "model.fp32.cpu_x86.onnx" for build in builds]
    shutil.copyfile(onnx[1], tmp_path / "net.onnx")
    found, shown = compared(toolchain, tmp_path / "out", onnx[0], tmp_path / "net.onnx", builds[0], "--recipe", recipe)
    other, same = found["students"]
    assert other["name"] == "net.onnx" and other["engine"] is None and other["kl_nats"]["value"] > 1e-6
    assert same["kl_nats"]["value"] < 1e-9 and same["agreement_percent"]["value"] == 100.0
    assert other["gradcam"] is None and "an ONNX file has no gradients" in shown
    refused(toolchain("compare", onnx[0], onnx[1], "--out", tmp_path / "out"), 2, "--recipe")


@pytest.mark.parametrize(("override", "words"), [
    ("split_seed: 1", ("found split", "same data section")), ("mean: [0, 0, 0]", ("preprocess.json: mean",)),
])
def test_builds_of_other_data_than_the_recipes_are_refused(
        toolchain: Toolchain, builds: tuple[Path, Path], tmp_path: Path, override: str, words: tuple[str, ...]) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(RECIPE.replace("source: digits", f"source: digits, {override}"))
    refused(toolchain("compare", *builds, "--recipe", other, "--out", tmp_path / "out"), 3, str(builds[0]), *words)


@pytest.mark.parametrize("file", [f"engines/{FP32}/engine.onnx", "student/model.safetensors"])
def test_an_altered_engine_or_network_is_refused(
        toolchain: Toolchain, builds: tuple[Path, Path], tmp_path: Path, file: str) -> None:
    altered = tmp_path / "altered"
    shutil.copytree(builds[1], altered)
    content = bytearray((altered / file).read_bytes())
    content[len(content) // 2] ^= 1
    (altered / file).write_bytes(content)
    refused(toolchain("compare", builds[0], altered, "--out", tmp_path / "out"), 8, file, "altered")


def test_mistakes_on_the_command_line_are_named(toolchain: Toolchain, builds: tuple[Path, Path], tmp_path: Path) -> None:
    teacher, student = builds
    refused(toolchain("compare", teacher, student, "--engine", "int8.onnxruntime.cpu_x68"), 2, f"did you mean '{INT8}'?")
    refused(toolchain("compare", teacher, tmp_path), 2, "holds no report.json", "toolchain build")
    refused(toolchain("compare", teacher, student, "--out", student), 2, "--out", "choose another folder")
    assert not (student / "compare.json").exists()
    (tmp_path / "file").write_text("")
    refused(toolchain("compare", teacher, student, "--out", tmp_path / "file" / "out"), 9, "cannot be written")
