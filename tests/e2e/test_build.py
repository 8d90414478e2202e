"""`toolchain build` as a user runs it: what it leaves, what it does not do twice, and how it goes on."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from toolchain.commands_check import run_baseline

ROOT = Path(__file__).parents[2]
TIMINGS = ("latency_ms", "speedup_vs_fp32", "throughput", "peak_memory_bytes", "validity", "machine_settings",
           "energy", "with_transfers_ms", "end_to_end_ms")


def report(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())


def without_timings(content: dict[str, Any]) -> dict[str, Any]:
    engines = [{k: v for k, v in e.items() if k not in TIMINGS} for e in content["engines"]]
    stages = [(s["name"], s["key"]) for s in content["stages"]]
    epochs = [[{k: v for k, v in e.items() if k != "seconds"} for e in run["epochs"]] for run in content["training"]]
    return {"engines": engines, "stages": stages, "epochs": epochs, "data": content["data"], "recipe": content["recipe"]}


def test_a_build_leaves_engines_onnx_preprocessing_recipe_and_three_reports(tiny_build: Path) -> None:
    found = {p.relative_to(tiny_build).as_posix() for p in tiny_build.rglob("*") if p.is_file()}
    assert {"report.json", "report.md", "report.html", "recipe.resolved.yaml", "preprocess.json",
            "onnx/model.fp32.cpu_x86.onnx", "onnx/model.int8.cpu_x86.onnx",
            "engines/int8.onnxruntime.cpu_x86/engine.onnx", "engines/int8.onnxruntime.cpu_x86/engine.json"} <= found


def test_the_report_tells_the_truth_about_each_engine_file(tiny_build: Path) -> None:
    content = report(tiny_build)
    assert content["schema_version"] == 1
    assert [s["name"] for s in content["stages"]][:2] == ["data", "train"]
    for engine in content["engines"]:
        file = tiny_build / engine["path"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == engine["sha256"]
        assert file.stat().st_size == engine["engine_bytes"]
        assert engine["measured"] is True
        low, high = engine["top1_interval"]
        assert low <= engine["top1_percent"] <= high
        assert engine["latency_ms"]["p50"] <= engine["latency_ms"]["p95"] <= engine["latency_ms"]["p99"]
        speed = engine["speedup_vs_fp32"]
        assert speed["low"] <= speed["value"] <= speed["high"]


def test_reported_accuracy_is_that_of_the_engine_run_by_hand(tiny_build: Path) -> None:
    import numpy as np
    import onnxruntime as ort

    from toolchain.data import batches, load_dataset
    from toolchain.recipe.load import load_recipe

    recipe = load_recipe(tiny_build / "recipe.resolved.yaml")
    data = load_dataset(recipe.data, [])
    engine = next(e for e in report(tiny_build)["engines"] if e["precision"] == "int8")
    session = ort.InferenceSession(str(tiny_build / engine["path"]), providers=["CPUExecutionProvider"])
    answers = [session.run(None, {session.get_inputs()[0].name: images})[0].argmax(1)
               for images, _ in batches(data.test, data.preprocess, 32)]
    by_hand = 100 * float(np.mean(np.concatenate(answers) == data.test.labels))
    assert engine["top1_percent"] == pytest.approx(by_hand, abs=0.35)  # one image in 360: batch sizes round differently


def test_a_build_passes_the_gate_against_its_own_baseline(toolchain: Any, tiny_build: Path, tmp_path: Path) -> None:
    baseline = run_baseline(tiny_build, tmp_path / "baseline.json")
    done = toolchain("check", tiny_build, "--baseline", baseline)
    assert done.returncode == 0 and "tiny against" in done.stdout, done.stderr


def test_the_gate_names_a_built_engine_that_is_gone_or_altered(toolchain: Any, tiny_build: Path, tmp_path: Path) -> None:
    run, baseline = tmp_path / "run", run_baseline(tiny_build, tmp_path / "baseline.json")
    shutil.copytree(tiny_build, run, ignore=shutil.ignore_patterns("stages"))
    engine = run / next(e["path"] for e in report(run)["engines"] if e["precision"] == "int8")
    engine.write_bytes(engine.read_bytes()[:-1])
    done = toolchain("check", run, "--baseline", baseline)
    assert done.returncode == 8 and f"error: {engine}: SHA-256 is" in done.stderr and not done.stdout, done.stderr
    engine.unlink()
    done = toolchain("check", run, "--baseline", baseline)
    assert done.returncode == 9 and f"error: {engine}: is missing" in done.stderr and not done.stdout, done.stderr


def test_a_shipped_bundle_answers_its_golden_inputs_by_hand(toolchain: Any, tiny_build: Path, tmp_path: Path) -> None:
    import numpy as np
    import onnxruntime as ort

    keys, bundle = {"TOOLCHAIN_KEYS": str(tmp_path / "keys")}, tmp_path / "tiny.bundle"
    for words in (("keys", "new", "workshop"), ("ship", tiny_build, "--engine", "int8", "--portable", "-o", bundle),
                  ("verify", bundle, "--for", "here")):
        done = toolchain(*words, **keys)
        assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(bundle) as file:
        held = {name: file.read(name) for name in file.namelist()}
    facts, pre = json.loads(held["golden.json"]), json.loads(held["preprocess.json"])
    pixels = np.frombuffer(held["golden.images.u8"], np.uint8).reshape(facts["images"], *facts["shape"])
    images = ((pixels / 255 - pre["mean"]) / pre["std"]).transpose(0, 3, 1, 2).astype(np.float32)
    session = ort.InferenceSession(held["engine/engine.onnx"], providers=["CPUExecutionProvider"])
    logits = np.frombuffer(held["golden.logits.f32"], "<f4").reshape(facts["images"], -1)
    found = np.concatenate([session.run(None, {session.get_inputs()[0].name: images[i : i + 1]})[0] for i in range(len(images))])
    assert np.linalg.norm(found - logits) < facts["tolerance"] * np.linalg.norm(logits)
    classes = json.loads(held["classes.json"])["classes"]
    assert facts["answers"] == [classes[i] for i in logits.argmax(axis=1)] and facts["of"] == "the engine"
    assert hashlib.sha256(held["portable/model.onnx"]).hexdigest() == json.loads(held["engine/engine.json"])["onnx_sha256"]


def test_a_repeated_build_does_nothing_unless_asked_to_measure_and_a_changed_engine_list_retrains_nothing(
        toolchain: Any, tiny_recipe: Path, tiny_build: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(tiny_build, out)
    again = toolchain("build", tiny_recipe, "--out", out)
    assert again.returncode == 0, again.stderr
    assert all(s["cached"] for s in report(out)["stages"])
    before = (out / "latency.npz").read_bytes()
    anew = toolchain("build", tiny_recipe, "--out", out, "--remeasure")
    assert anew.returncode == 0, anew.stderr
    assert [s["name"] for s in report(out)["stages"] if not s["cached"]] == ["measure"]
    assert (out / "latency.npz").read_bytes() != before
    changed = toolchain("build", tiny_recipe, "--out", out, "--set", "engines=[{runtime: onnxruntime, precision: fp16}]")
    assert changed.returncode == 0, changed.stderr
    ran = [s["name"] for s in report(out)["stages"] if not s["cached"]]
    assert ran == ["onnx_fp16_cpu_x86", "engine_fp16.onnxruntime.cpu_x86", "contract_fp16.onnxruntime.cpu_x86", "measure",
                   "golden", "quantized_facts"]


def test_plan_lists_what_is_cached_and_runs_nothing(toolchain: Any, tiny_recipe: Path, tiny_build: Path) -> None:
    planned = toolchain("plan", tiny_recipe, "--out", tiny_build, "--set", "train.epochs=3")
    lines = {line.split()[0]: line for line in planned.stdout.splitlines() if line.strip()}
    assert planned.returncode == 0, planned.stderr
    assert "cached" in lines["data"] and "to do" in lines["train"]
    assert "nothing to do" in toolchain("plan", tiny_recipe, "--out", tiny_build).stdout


def test_a_limit_that_does_not_hold_is_named_and_everything_is_kept(
        toolchain: Any, tiny_recipe: Path, tiny_build: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(tiny_build, out)
    done = toolchain("build", tiny_recipe, "--out", out, "--set", "limits.int8.weight_bytes=0.01")
    assert done.returncode == 10
    assert "int8.onnxruntime.cpu_x86: weight_bytes" in done.stderr and "Traceback" not in done.stderr
    assert (out / "engines/int8.onnxruntime.cpu_x86/engine.onnx").is_file()
    held = {(r["engine"], r["limit"]): r["held"] for r in report(out)["limits"]}
    assert held[("int8.onnxruntime.cpu_x86", "weight_bytes")] is False


@pytest.mark.parametrize("file", ["engines/int8.onnxruntime.cpu_x86/engine.onnx", "train"])
def test_an_altered_engine_or_checkpoint_is_refused(
        toolchain: Any, tiny_recipe: Path, tiny_build: Path, tmp_path: Path, file: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(tiny_build, out)
    path = next((out / "stages").glob("train-*/model.safetensors")) if file == "train" else out / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = toolchain("build", tiny_recipe, "--out", out)
    assert done.returncode == 8
    assert path.name in done.stderr and "altered" in done.stderr and "Traceback" not in done.stderr


def test_killed_at_random_moments_the_same_command_ends_with_the_same_report(
        toolchain: Any, tiny_recipe: Path, tiny_build: Path, tmp_path: Path) -> None:
    out, moments = tmp_path / "out", random.Random(0)
    command = [sys.executable, "-m", "toolchain", "build", str(tiny_recipe), "--out", str(out)]
    for _ in range(10):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   start_new_session=True)
        time.sleep(moments.uniform(1, 9))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = toolchain("build", tiny_recipe, "--out", out)
    assert done.returncode == 0, done.stderr
    assert without_timings(report(out)) == without_timings(report(tiny_build))


def test_ctrl_c_says_how_to_go_on(tiny_recipe: Path, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-m", "toolchain", "build", str(tiny_recipe), "--out", str(tmp_path / "o")],
                               cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    process.stderr.readline()  # the first stage is done
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in errors and "Traceback" not in errors
