"""A small bundle whose engine really runs in ONNX Runtime, with golden inputs and its answers to them."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from bundles import CLASSES, CONTENT, KEY, PREPROCESS, RECORD, files, ordered, signed, text, zipped
from onnx import TensorProto, helper, numpy_helper

from toolchain.runner.trust import Key, key_text
from toolchain.ship.pack import manifest_text

SIZE, IMAGES = int(PREPROCESS["image_size"]), 2
TARGET = "cpu_arm" if platform.machine().lower() in ("aarch64", "arm64") else "cpu_x86"


def tiny_onnx(scale: float = 1.0, wide: int = 0) -> bytes:
    """Flatten and one matrix: (n, 3, 2, 2) -> (n, 3) logits. wide: bytes of weights that change nothing."""
    rng = np.random.default_rng(0)
    weights = (scale * rng.standard_normal((3 * SIZE * SIZE, len(CLASSES)))).astype(np.float32)
    made = [numpy_helper.from_array(weights, "weights")]
    nodes = [helper.make_node("Flatten", ["images"], ["flat"]),
             helper.make_node("MatMul", ["flat", "weights"], ["logits" if not wide else "plain"])]
    if wide:  # a constant that is added as its own mean times nothing: it is there to be sent
        ballast = rng.standard_normal((wide // 4,)).astype(np.float32)
        made += [numpy_helper.from_array(ballast, "ballast"), numpy_helper.from_array(np.zeros((1,), np.float32), "zero")]
        nodes += [helper.make_node("ReduceMean", ["ballast"], ["mean"], keepdims=1),
                  helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
                  helper.make_node("Add", ["plain", "nothing"], ["logits"])]
    graph = helper.make_graph(nodes, "tiny", [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
                              [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(CLASSES)])], made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def live_bundle(path: Path, name: str = "tiny", scale: float = 1.0, wide: int = 0, honest: bool = True,
                **others: object) -> Path:
    """Write the bundle, signed by bundles.KEY. honest: False: its golden logits are not the engine's (same answers).
    others: fields of the engine's record to replace.
    """
    engine = tiny_onnx(scale, wide)
    pictures = np.random.default_rng(1).integers(0, 256, (IMAGES, SIZE, SIZE, 3), dtype=np.uint8)
    mean, std = (np.array(PREPROCESS[field], np.float32) for field in ("mean", "std"))
    images = ((pictures.astype(np.float32) / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
    session = onnxruntime.InferenceSession(engine, providers=["CPUExecutionProvider"])
    logits = session.run(None, {"images": np.ascontiguousarray(images)})[0]
    stored = logits if honest else 3 * logits
    record = {**RECORD, "target": TARGET, "runtime_version": onnxruntime.__version__, "engine_bytes": len(engine),
              "sha256": hashlib.sha256(engine).hexdigest(), **others}
    holds = files(
        engine_engine_onnx=engine, engine_engine_json=text(record), golden_images_u8=pictures.tobytes(),
        golden_json=text({"images": IMAGES, "tolerance": 0.1, "answers": [CLASSES[i] for i in stored.argmax(axis=1)]}),
        golden_logits_f32=np.ascontiguousarray(stored, "<f4").tobytes())
    content = {**CONTENT, "name": name, "engine": {**CONTENT["engine"], **{  # type: ignore[dict-item]
        field: record[field] for field in ("runtime_version", "target", "sha256", "runtime")}}}
    path.write_bytes(zipped(ordered(signed(holds, manifest=manifest_text(content, holds, KEY)))))
    return path


def trusted_folder(folder: Path, key: Key = KEY) -> Path:
    """A folder of keys, as --keys takes it, that trusts the key."""
    (folder / "trusted").mkdir(parents=True)
    (folder / "trusted" / f"{key.name}.pub").write_text(key_text(key))
    return folder


def write_onnx(path: Path, scale: float = 1.0, wide: int = 0) -> Path:
    """The network as a file."""
    path.write_bytes(tiny_onnx(scale, wide))
    onnx.checker.check_model(str(path))
    return path


