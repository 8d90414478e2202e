"""Distillation as a user runs it: every method, every kind of teacher, and what each refusal says."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from refusal import refused

from toolchain.cli import main

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "recipes" / "distill" / "digits"
METHODS = sorted(path.stem for path in DIGITS.glob("*.yaml") if path.stem != "teacher")
QUICK = ("train.epochs=2", "measure.rounds=2", "measure.runs_per_round=1", "measure.warmup=1",
         "measure.throughput_batches=[1]", "quantize.calibration.images=16")
TEACHER = """\
name: teacher
data: {source: digits}
model: {arch: vgg11_bn, width: 0.125}
train: {epochs: 2}
quantize: {method: ptq, calibrator: max, calibration: {images: 16}}
measure: {warmup: 1, rounds: 2, runs_per_round: 1, throughput_batches: [1]}
engines: [{runtime: onnxruntime, precision: fp32}]
"""
STUDENT = TEACHER.replace("name: teacher", "name: student").replace("epochs: 2", "epochs: 1") + "distill: DISTILL\n"


def sets(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished stages of this file's builds: a teacher is trained once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def teacher_build(toolchain: Any, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of teacher.yaml and, below out/, of its finished build."""
    folder = tmp_path_factory.mktemp("teacher")
    (folder / "teacher.yaml").write_text(TEACHER)
    done = toolchain("build", folder / "teacher.yaml", "--out", folder / "out", "--cache", cache)
    assert done.returncode == 0, done.stderr
    return folder


def student(folder: Path, distill: str, recipe: str = STUDENT) -> Path:
    path = folder / "student.yaml"
    path.write_text(recipe.replace("DISTILL", distill))
    return path


def stage(cache: Path, out: Path, name: str) -> Path:
    """The folder of a finished build's stage."""
    stages = json.loads((out / "report.json").read_text())["stages"]
    key = next(s["key"] for s in stages if s["name"] == name)
    return cache / f"{name}-{key[:16]}"


@pytest.fixture(scope="module")
def every_method(toolchain: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study with one short build of each shipped digits recipe: runs/<method>.seed0, and cache."""
    folder = tmp_path_factory.mktemp("methods")
    rows = "".join(f"  {method}: {{recipe: {DIGITS}/{method}.yaml}}\n" for method in METHODS)
    overrides = "".join(f"  - {override}\n" for override in QUICK)
    (folder / "methods.yaml").write_text(f"name: methods\nseeds: [0]\nset:\n{overrides}rows:\n{rows}")
    done = toolchain("study", folder / "methods.yaml", "--out", folder / "out", timeout=900)
    assert done.returncode == 0, done.stderr
    return folder / "out"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_builds_measured_engines_and_says_what_was_taught(every_method: Path, method: str) -> None:
    out, cache = every_method / "runs" / f"{method}.seed0", every_method / "cache"
    report = json.loads((out / "report.json").read_text())
    assert [e["precision"] for e in report["engines"]] == ["fp32", "int8"] and all(e["measured"] for e in report["engines"])
    fidelity = json.loads((stage(cache, out, "fidelity") / "fidelity.json").read_text())
    assert fidelity["teacher"]["top1_percent"] > 90 and fidelity["images"] == 359
    assert [row["name"] for row in fidelity["engines"]] == [e["name"] for e in report["engines"]]
    for row, engine in zip(fidelity["engines"], report["engines"], strict=True):
        assert row["kl_nats"]["low"] <= row["kl_nats"]["value"] <= row["kl_nats"]["high"]
        assert row["top1_percent"] == pytest.approx(engine["top1_percent"])
    assert fidelity["gradcam"]["grid"] == [4, 4] and (out / "gradcam.png").is_file()
    untaught = method in ("independent", "label_smoothing")
    assert (stage(cache, out, "train") / "taught.json").is_file() != untaught
    assert json.loads((out / "student" / "architecture.json").read_text())["model"]["width"] == 0.125


def test_peers_are_reported_with_their_mean_and_the_best_one_is_kept(every_method: Path) -> None:
    out = every_method / "runs" / "mutual.seed0"
    taught = json.loads((stage(every_method / "cache", out, "train") / "taught.json").read_text())
    assert len(taught["peers_val_top1"]) == 2
    assert taught["mean"] == pytest.approx(sum(taught["peers_val_top1"]) / 2)
    assert taught["peers_val_top1"][taught["best"]] == max(taught["peers_val_top1"])


def test_an_early_stop_leaves_a_weight_of_exactly_zero_in_the_history(
    toolchain: Any, tmp_path: Path, teacher_build: Path, cache: Path
) -> None:
    recipe = student(tmp_path, "{method: soft_targets, early_stop: {after: 0.5}, "
                               f"teacher: {{recipe: {teacher_build / 'teacher.yaml'}}}}}")
    done = toolchain("build", recipe, "--out", tmp_path / "out", "--cache", cache, *sets("train.epochs=4"))
    assert done.returncode == 0, done.stderr
    history = json.loads((stage(cache, tmp_path / "out", "train") / "history.json").read_text())
    weights = [epoch["parts"]["method_weight"] for epoch in history]
    assert weights[:2] == pytest.approx([0.9, 0.9]) and weights[2:] == [0.0, 0.0]
    assert [epoch["parts"]["label_weight"] for epoch in history] == pytest.approx([0.1, 0.1, 1.0, 1.0])
    assert ["method" in epoch["parts"] for epoch in history] == [True, True, False, False]


@pytest.mark.parametrize("kind", ["recipe", "folder", "state", "onnx"])
def test_a_teacher_may_be_a_recipe_a_checkpoint_or_an_onnx_file(
    toolchain: Any, tmp_path: Path, teacher_build: Path, cache: Path, kind: str
) -> None:
    out = teacher_build / "out"
    named = {"recipe": f"{{recipe: {teacher_build / 'teacher.yaml'}}}", "folder": f"{{checkpoint: {out / 'student'}}}",
             "state": f"{{checkpoint: {out / 'student/model.safetensors'}, model: {{arch: vgg11_bn, width: 0.125}}}}",
             "onnx": f"{{onnx: {out / 'onnx/model.fp32.cpu_x86.onnx'}}}"}[kind]
    recipe = student(tmp_path, f"{{method: dkd, teacher: {named}}}")
    done = toolchain("build", recipe, "--out", tmp_path / "out", "--cache", cache, *sets("measure.fidelity={}"))
    assert done.returncode == 0, done.stderr
    fidelity = json.loads((stage(cache, tmp_path / "out", "fidelity") / "fidelity.json").read_text())
    expected = json.loads((out / "report.json").read_text())["engines"][0]["top1_percent"]
    assert fidelity["teacher"]["top1_percent"] == pytest.approx(expected, abs=0.3)  # one image may tip over
    assert (fidelity["gradcam"] is None) == (kind == "onnx")
    if kind == "onnx":
        assert "ONNX" in fidelity["gradcam_reason"]


def test_a_teacher_with_its_own_normalisation_sees_the_same_pixels(
    toolchain: Any, tmp_path: Path, teacher_build: Path, cache: Path
) -> None:
    report = json.loads((teacher_build / "out/report.json").read_text())
    mean, std = (json.loads((teacher_build / "out/preprocess.json").read_text())[key] for key in ("mean", "std"))
    recipe = student(tmp_path, f"{{method: soft_targets, teacher: {{checkpoint: {teacher_build / 'out/student'}, "
                               f"mean: {mean}, std: {std}}}}}",
                     STUDENT.replace("{source: digits}", "{source: digits, mean: [0, 0, 0], std: [1, 1, 1]}"))
    done = toolchain("build", recipe, "--out", tmp_path / "out", "--cache", cache, *sets("measure.fidelity={}"))
    assert done.returncode == 0, done.stderr
    fidelity = json.loads((stage(cache, tmp_path / "out", "fidelity") / "fidelity.json").read_text())
    assert fidelity["teacher"]["top1_percent"] == pytest.approx(report["engines"][0]["top1_percent"], abs=0.3)


def test_colour_jitter_on_the_test_set_is_judged_beside_the_clean_one(
    toolchain: Any, tmp_path: Path, teacher_build: Path, cache: Path
) -> None:
    recipe = student(tmp_path, f"{{method: soft_targets, teacher: {{recipe: {teacher_build / 'teacher.yaml'}}}}}")
    done = toolchain("build", recipe, "--out", tmp_path / "out", "--cache", cache,
                     *sets("measure.fidelity={gradcam: false, jitter: {seed: 7}}"))
    assert done.returncode == 0, done.stderr
    fidelity = json.loads((stage(cache, tmp_path / "out", "fidelity") / "fidelity.json").read_text())
    (row,) = fidelity["jitter"]["engines"]
    assert fidelity["jitter"]["settings"]["seed"] == 7
    assert row["drop"]["value"] == pytest.approx(fidelity["engines"][0]["top1_percent"] - row["top1_percent"])
    assert fidelity["gradcam"] is None and fidelity["gradcam_reason"] == "not asked for"


def test_a_distilled_student_goes_through_pruning_with_its_teacher(
    toolchain: Any, tmp_path: Path, teacher_build: Path, cache: Path
) -> None:
    recipe = student(tmp_path, f"{{method: hints, teacher: {{recipe: {teacher_build / 'teacher.yaml'}}}}}",
                     STUDENT.replace("width: 0.125", "width: 0.25"))
    done = toolchain("build", recipe, "--out", tmp_path / "out", "--cache", cache,
                     *sets("prune={method: channels, ratio: 0.5, round_to: 1, finetune: {epochs: 1}}"))
    assert done.returncode == 0, done.stderr
    history = json.loads((stage(cache, tmp_path / "out", "prune") / "history.json").read_text())
    assert history[0]["parts"]["method"] > 0


def test_a_killed_contrastive_run_ends_with_the_weights_of_an_undisturbed_one(
    toolchain: Any, tmp_path: Path, teacher_build: Path, cache: Path
) -> None:
    recipe = student(tmp_path, f"{{method: crd, negatives: 64, teacher: {{recipe: {teacher_build / 'teacher.yaml'}}}}}")
    words = [sys.executable, "-m", "toolchain", "build", str(recipe), *sets("train.epochs=3"), "--out"]
    shutil.copytree(cache, tmp_path / "cache")
    process = subprocess.Popen([*words, str(tmp_path / "cut"), "--cache", str(tmp_path / "cache")], cwd=ROOT)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "cache").glob("train-*.partial/checkpoints/checkpoint.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = toolchain(*words[3:], tmp_path / "cut", "--cache", tmp_path / "cache")
    assert done.returncode == 0 and "resumed after epoch" in done.stderr, done.stderr
    whole = toolchain(*words[3:], tmp_path / "whole", "--cache", cache)
    assert whole.returncode == 0, whole.stderr
    cut, undisturbed = ((tmp_path / name / "student/model.safetensors").read_bytes() for name in ("cut", "whole"))
    assert cut == undisturbed


def test_over_three_seeds_the_taught_beat_or_equal_the_untaught_and_are_nearer_to_the_teacher(
    toolchain: Any, tmp_path: Path
) -> None:
    rows = "".join(f"  {name}: {{recipe: {DIGITS}/{name}.yaml}}\n" for name in ("independent", "soft_targets", "dkd"))
    overrides = "".join(f"  - {override}\n" for override in (*QUICK[1:], "measure.fidelity.gradcam=false"))
    (tmp_path / "study.yaml").write_text(
        f"name: taught\nseeds: [0, 1, 2]\ncontrol: independent\nset:\n{overrides}rows:\n{rows}")
    done = toolchain("study", tmp_path / "study.yaml", "--out", tmp_path / "out", timeout=900)
    assert done.returncode == 0, done.stderr
    study = json.loads((tmp_path / "out/study.json").read_text())
    assert not any(row["budget_differs"] for row in study["rows"])  # the same epochs for all
    figures = {row["name"]: row["figures"] for row in study["rows"]}
    for method in ("soft_targets", "dkd"):
        assert figures[method]["top1"]["mean"] >= figures["independent"]["top1"]["mean"]
        for seed in ("0", "1", "2"):
            assert figures[method]["kl"]["values"][seed] < figures["independent"]["kl"]["values"][seed]


def coloured_folder(place: Path, classes: int) -> Path:
    """A folder dataset of plain colours, one a class."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(classes):
            folder = place / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(6):
                pixels = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return place


@pytest.mark.parametrize(("distill", "code", "words"), [
    ("{method: hints, student_layer: features.99, teacher: TEACHER}", 4,
     ("distill.student_layer: 'features.99' is not a layer", "did you mean 'features.")),
    ("{method: attention_transfer, layers: [{student: features.2, teacher: feature.2}], teacher: TEACHER}", 4,
     ("distill.layers.0.teacher: 'feature.2'", "did you mean 'features.2'?")),
    ("{method: hints, student_layer: features.2, teacher_layer: classifier.1, teacher: TEACHER}", 4, ("distill.",)),
    ("{method: soft_target, teacher: TEACHER}", 2, ("did you mean 'soft_targets'?",)),
    ("{method: dkd}", 2, ("distill.teacher: is required and missing",)),
    ("{method: mutual, teacher: TEACHER}", 2, ("teacher: unknown key",)),
    ("{method: function_matching, ce_weight: 1, teacher: TEACHER}", 2, ("ce_weight: unknown key",)),
    ("{method: hints, teacher: {onnx: OUT/onnx/model.fp32.cpu_x86.onnx}}", 2, ("an ONNX file gives logits only",)),
    ("{method: dkd, teacher: {onnx: nowhere.onnx}}", 2, ("distill.teacher.onnx: 'nowhere.onnx' exists neither in",)),
    ("{method: dkd, teacher: {checkpoint: OUT/student/model.safetensors}}", 2, ("add distill.teacher.model",)),
    ("{method: dkd, teacher: {checkpoint: OUT/student/model.safetensors, model: {arch: resnet18}}}", 4,
     ("model.safetensors: these weights are for another network",)),
    ("{method: dkd, teacher: {checkpoint: OUT/student, model: {arch: resnet18}}}", 4,
     ("found arch resnet18", "holds vgg11_bn")),
    ("{method: dkd, teacher: {checkpoint: OUT/onnx}}", 2, ("onnx holds no architecture.json; name the student folder",)),
    ("{method: dkd, teacher: {checkpoint: OUT}}", 2, ("out holds no architecture.json; name", "out/student")),
    ("{method: dkd, ce_weight: 0, alpha: 0, beta: 0, teacher: TEACHER}", 2, ("are all 0",)),
    ("{method: dkd, teacher: {recipe: split.yaml}}", 3, ("images that the student is judged by",)),
    ("{method: dkd, teacher: {recipe: pixels.yaml}}", 2, ("this teacher sees 16 pixels, the student 32",)),
    ("{method: dkd, teacher: {recipe: classes.yaml}}", 2,
     ("its teacher knows 3 classes, the student is to learn 10", "'class0' there, '0' here")),
    ("{method: dkd, teacher: {recipe: taught.yaml}}", 2, ("is itself distilled", "distill.teacher.checkpoint")),
])
def test_a_lesson_that_cannot_be_given_is_refused_by_name_before_the_teacher_is_trained(
    tmp_path: Path, teacher_build: Path, capsys: pytest.CaptureFixture[str], distill: str, code: int,
    words: tuple[str, ...]
) -> None:
    inline = "{model: {arch: vgg11_bn, width: 0.125}, train: {epochs: 50}}"
    recipe = student(tmp_path, distill.replace("TEACHER", inline).replace("OUT", str(teacher_build / "out")))
    (tmp_path / "pixels.yaml").write_text(TEACHER.replace("source: digits", "source: digits, image_size: 16"))
    (tmp_path / "split.yaml").write_text(TEACHER.replace("source: digits", "source: digits, split_seed: 7"))
    folder = coloured_folder(tmp_path / "colours", 3)
    (tmp_path / "classes.yaml").write_text(TEACHER.replace(
        "source: digits", f"source: folder, train: {folder}/train, test: {folder}/test"))
    (tmp_path / "taught.yaml").write_text(STUDENT.replace("DISTILL", f"{{method: dkd, teacher: {inline}}}"))
    with pytest.raises(SystemExit) as stop:  # the command line itself, without a process for each of many mistakes
        main(["build", str(recipe), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")])
    said = capsys.readouterr().err
    refused(subprocess.CompletedProcess([], stop.value.code, "", said), code, *words)
    assert "epoch 1/50" not in said


def test_a_checkpoint_from_a_build_brings_its_normalisation_and_its_digest(
    toolchain: Any, tmp_path: Path, cache: Path
) -> None:
    grey = TEACHER.replace("{source: digits}", "{source: digits, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}")
    (tmp_path / "teacher.yaml").write_text(grey)
    built = toolchain("build", tmp_path / "teacher.yaml", "--out", tmp_path / "teacher", "--cache", cache)
    assert built.returncode == 0, built.stderr
    recipe = student(tmp_path, f"{{method: soft_targets, teacher: {{checkpoint: {tmp_path / 'teacher/student'}}}}}")
    words = ["build", recipe, "--out", tmp_path / "out", "--cache", cache, *sets("measure.fidelity={gradcam: false}")]
    done = toolchain(*words)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    own = json.loads((tmp_path / "teacher/report.json").read_text())["engines"][0]["top1_percent"]
    fidelity = json.loads((stage(cache, tmp_path / "out", "fidelity") / "fidelity.json").read_text())
    assert fidelity["teacher"]["top1_percent"] == pytest.approx(own, abs=0.3)
    weights = tmp_path / "teacher/student/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()  # it is linked to the stage's file
    weights.write_bytes(content)
    refused(toolchain(*words), 8, "model.safetensors", "the file was altered")


def test_a_layer_of_the_comparison_is_checked_before_anything_is_trained(
    toolchain: Any, tmp_path: Path, teacher_build: Path, cache: Path
) -> None:
    recipe = student(tmp_path, f"{{method: dkd, teacher: {{recipe: {teacher_build / 'teacher.yaml'}}}}}")
    done = toolchain("build", recipe, "--out", tmp_path / "out", "--cache", tmp_path / "cache",
                     *sets("measure.fidelity={student_layer: feetures.4}"))
    refused(done, 4, "measure.fidelity.student_layer", "feetures.4", "did you mean 'features.")
    assert "epoch" not in done.stderr


def plan(done: Any, name: str) -> str:
    """The key of a stage in the output of `toolchain plan`."""
    return next(line.split()[1] for line in done.stdout.splitlines() if line.split()[:1] == [name])


def test_peers_do_not_depend_on_the_teacher_they_are_only_compared_with(toolchain: Any, tmp_path: Path) -> None:
    recipe = student(tmp_path, "{method: mutual}")
    keys = [plan(toolchain("plan", recipe, *sets(f"measure.fidelity.teacher={{model: {{arch: {arch}}}}}")), "train")
            for arch in ("vgg11_bn", "resnet18")]
    assert keys[0] == keys[1]


def test_a_teachers_recipe_finds_its_data_beside_itself(toolchain: Any, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    coloured_folder(tmp_path / "sub" / "images", 3)
    folder = "source: folder, train: images/train, test: images/test"
    (tmp_path / "sub/teacher.yaml").write_text(TEACHER.replace("source: digits", folder))
    own = folder.replace("images/", "sub/images/")
    recipe = student(tmp_path, "{method: dkd, teacher: {recipe: sub/teacher.yaml}}",
                     STUDENT.replace("source: digits", own))
    done = toolchain("plan", recipe, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("overrides", "words"), [
    (("measure.fidelity={}",), ("measure.fidelity compares with a teacher, but this recipe has none",)),
    (("measure.fidelity={teacher: {recipe: a.yaml}}", "distill={method: dkd, teacher: {recipe: b.yaml}}"),
     ("distill.teacher is compared already",)),
])
def test_fidelity_needs_exactly_one_teacher(toolchain: Any, tiny_recipe: Path, overrides: tuple[str, ...],
                                            words: tuple[str, ...]) -> None:
    refused(toolchain("validate", tiny_recipe, *sets(*overrides)), 2, *words)
