"""A bundle whose network can be worked out by hand: its logits are the means of the red, green and blue channel."""

from __future__ import annotations

import hashlib
import json
import platform
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from bundles import KEY, PRIVATE, files, ordered, signed, text, zipped
from onnx import TensorProto, helper, numpy_helper

from toolchain.runner.trust import key_text
from toolchain.ship.gather import runner_files
from toolchain.ship.keys import self_signed
from toolchain.ship.pack import manifest_text

CLASSES = ["red", "green", "blue"]
SIZE = 4
PREPROCESS: dict[str, Any] = {"image_size": SIZE, "resize": None, "mean": [0.5, 0.25, 0.125], "std": [0.5, 0.25, 0.5],
                              "interpolation": "bilinear"}
TARGET = "cpu_arm" if platform.machine().lower() in ("aarch64", "arm64") else "cpu_x86"
NAME = f"fp32.onnxruntime.{TARGET}"
QUICK_JOB = {"batch": 2, "warmup": 1, "rounds": 4, "runs": 3, "attempts": 1, "seed": 5}  # bench of a job
BEST = self_signed(PRIVATE, KEY.name, KEY.created, date.max)


def color_net(gain: float = 1.0, batch: int | str = "n") -> bytes:
    """An ONNX file: (n, 3, SIZE, SIZE) -> gain * mean of each channel (n, 3)."""
    nodes = [helper.make_node("GlobalAveragePool", ["images"], ["means"]), helper.make_node("Flatten", ["means"], ["flat"]),
             helper.make_node("MatMul", ["flat", "gain"], ["logits"])]
    graph = helper.make_graph(
        nodes, "colors", [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(gain * np.eye(3, dtype=np.float32), "gain")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def pictures(count: int = 6, size: int = SIZE) -> np.ndarray:
    """uint8 (count, size, size, 3): noise, in which picture n has its channel n % 3 at 255."""
    made = np.random.default_rng(0).integers(0, 60, (count, size, size, 3), np.uint8)
    for n in range(count):
        made[n, :, :, n % 3] = 255
    return made


def logits(images: np.ndarray, gain: float = 1.0) -> np.ndarray:
    """(n, 3) in float64, from the definition."""
    scaled = (images / 255 - np.array(PREPROCESS["mean"])) / np.array(PREPROCESS["std"])
    return gain * scaled.mean(axis=(1, 2))


def holdings(gain: float = 1.0, golden_gain: float | None = None, portable: bool = False, golden: bool = True,
             **record: Any) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The bundle's files, the runner's among them, and its manifest's content. golden_gain: of the network that gave
    the golden logits, where it is another. record: of the engine, to replace."""
    engine, shown = color_net(gain), pictures()
    expected = logits(shown, gain if golden_gain is None else golden_gain).astype("<f4")
    facts = {"name": NAME, "precision": "fp32", "compute": "fp32", "runtime": "onnxruntime",
             "runtime_version": onnxruntime.__version__, "target": TARGET, "onnx_sha256": hashlib.sha256(engine).hexdigest(),
             "engine": "engine.onnx", "sha256": hashlib.sha256(engine).hexdigest(), "engine_bytes": len(engine),
             "weight_bytes": 36, "device": "a CPU", "profile": None, "layers": [], **record}
    holds = {**files(), "engine/engine.onnx": engine, "engine/engine.json": text(facts), "preprocess.json": text(PREPROCESS),
             "classes.json": text({"classes": CLASSES}), "golden.images.u8": shown.tobytes(),
             "golden.logits.f32": expected.tobytes(), "golden.json": text({
                 "images": len(shown), "tolerance": 0.01, "answers": [CLASSES[k] for k in expected.argmax(axis=1)]}),
             **{name: path.read_bytes() for name, path in runner_files().items()}}
    if portable:
        holds["portable/model.onnx"] = engine
    if not golden:
        for name in ("golden.json", "golden.images.u8", "golden.logits.f32"):
            del holds[name]
    content = {"name": f"colors{gain:g}", "limits_not_held": [], "measured": True, "engine": {
        **{field: facts[field] for field in ("name", "precision", "compute", "runtime", "runtime_version", "target", "device",
                                             "profile", "sha256", "onnx_sha256")}, "file": "engine/engine.onnx"}}
    return holds, content


def color_bundle(path: Path, **others: Any) -> Path:
    """Write the bundle at `path`, signed by bundles.KEY."""
    holds, content = holdings(**others)
    path.write_bytes(zipped(ordered(signed(holds, manifest=manifest_text(content, holds, KEY)))))
    return path


def unpacked(bundle: Path, folder: Path) -> Path:
    """As `unzip` does."""
    with zipfile.ZipFile(bundle) as opened:
        opened.extractall(folder)
    return folder


def trusting(folder: Path) -> Path:
    """A device's folder that believes the bundles' signer."""
    (folder / "keys").mkdir(parents=True)
    (folder / "keys" / "workshop.pub").write_text(key_text(BEST))
    return folder


def stored(folder: Path, content: bytes) -> str:
    """Put it into the device's store; returns its digest."""
    digest = hashlib.sha256(content).hexdigest()
    (folder / "store").mkdir(parents=True, exist_ok=True)
    (folder / "store" / digest).write_bytes(content)
    return digest


def job_file(folder: Path, **content: Any) -> Path:
    """JOB.json in the device's folder."""
    path = folder / "job.json"
    path.write_text(json.dumps(content))
    return path


def engine_of_job(name: str, **others: Any) -> dict[str, Any]:
    """An engine as a job names it; others: onnx or file, and whatever else."""
    return {"name": name, "precision": "fp32", "runtime": "onnxruntime", "target": TARGET, **others}
