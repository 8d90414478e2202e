"""A small bundle and a small finished build, made by hand, and a zip file of any shape around their files."""

from __future__ import annotations

import hashlib
import json
import struct
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from toolchain.runner.bundle import MANIFEST, SIGNATURE, Member, central_header, local_header
from toolchain.ship.keys import self_signed
from toolchain.ship.pack import manifest_text

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = self_signed(PRIVATE, "workshop", date(2026, 11, 1), date(2027, 12, 31))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
TODAY = date(2026, 11, 21)
TRUSTED = {KEY.key_id: KEY}
ENGINE = b"an engine that nobody runs here" * 3
CLASSES = ["cat", "dog", "eel"]
LOGITS = [[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]]  # cat, eel
RECORD = {"name": "int8.onnxruntime.cpu_x86", "precision": "int8", "compute": "int8", "runtime": "onnxruntime",
          "runtime_version": "1.31.1", "target": "cpu_x86", "onnx_sha256": "0" * 64, "engine": "engine.onnx",
          "sha256": hashlib.sha256(ENGINE).hexdigest(), "engine_bytes": len(ENGINE), "weight_bytes": 30,
          "device": "a CPU", "profile": None, "layers": []}
PREPROCESS = {"image_size": 2, "resize": None, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25],
              "interpolation": "bilinear"}
CONTENT = {"name": "tiny", "limits_not_held": [], "measured": True, "engine": {
    **{field: RECORD[field] for field in ("name", "precision", "runtime", "runtime_version", "target", "sha256")},
    "file": "engine/engine.onnx"}}


def text(content: Any) -> bytes:
    return json.dumps(content, indent=1).encode()


def files(**others: bytes | None) -> dict[str, bytes]:
    """The files of a sound bundle; others: by name with "_" for "." and "/", to replace one (None: to leave it out)."""
    made = {"engine/engine.onnx": ENGINE, "engine/engine.json": text(RECORD), "preprocess.json": text(PREPROCESS),
            "classes.json": text({"classes": CLASSES}), "measured.json": b"{}", "recipe.yaml": b"name: tiny\n",
            "provenance.json": b"{}", "sbom.cdx.json": b"{}",
            "golden.json": text({"images": 2, "answers": ["cat", "eel"], "tolerance": 0.1}),
            "golden.images.u8": bytes(range(24)), "golden.logits.f32": b"".join(struct.pack("<3f", *r) for r in LOGITS)}
    for word, content in others.items():
        name = next(n for n in made if n.replace("/", "_").replace(".", "_") == word)
        made[name] = content  # type: ignore[assignment]
    return {name: content for name, content in made.items() if content is not None}


def signed(holds: dict[str, bytes], content: dict[str, Any] | None = None, manifest: bytes | None = None,
           private: Ed25519PrivateKey = PRIVATE, key_id: str = KEY.key_id) -> dict[str, bytes]:
    """`holds` with a manifest (of CONTENT, or as given) and its signature."""
    manifest = manifest if manifest is not None else manifest_text(CONTENT if content is None else content, holds, KEY)
    return {MANIFEST: manifest, SIGNATURE: bytes.fromhex(key_id) + private.sign(manifest), **holds}


def zipped(holds: dict[str, bytes]) -> bytes:
    """The zip file of these files in our form and in the order that is given, whatever they are."""
    import zlib

    body, directory = b"", b""
    for name, content in holds.items():
        member = Member(name, 0, len(content), zlib.crc32(content))
        directory += central_header(member, len(body))
        body += local_header(member) + content
    return body + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(holds), len(holds), len(directory), len(body), 0)


def ordered(holds: dict[str, bytes]) -> dict[str, bytes]:
    """In the order that a bundle has."""
    first = [name for name in (MANIFEST, SIGNATURE) if name in holds]
    return {name: holds[name] for name in [*first, *sorted(set(holds) - set(first))]}


def sound() -> bytes:
    """A bundle that every check accepts."""
    return zipped(ordered(signed(files())))


def tiny_run(run: Path, *, held: bool = True, measured: bool = True) -> Path:
    """A finished build of one engine, as far as `ship` looks: report.json, engine, golden inputs, published.json."""
    name = str(RECORD["name"])
    engine = {**{field: RECORD[field] for field in ("name", "precision", "runtime", "target", "sha256", "engine_bytes")},
              "measured": measured, "reason": None if measured else "no GPU"}
    limit = {"engine": name, "limit": "top1_drop", "asked": 0.5, "found": 0.25 if held else 2.0, "held": held}
    report = {"schema_version": 1, "recipe": {"name": "tiny"}, "stages": [{"name": "train", "key": "ab", "cached": False}],
              "environment": {"python": "3.11", "packages": {"numpy": "2.4.6", "tensorrt": None}},
              "data": {"name": "pets", "classes": CLASSES, "train": 4, "val": 2, "test": 2, "split_sha256": "1" * 64},
              "engines": [engine], "limits": [limit]}
    onnx = b"an ONNX file"
    record = {**RECORD, "onnx_sha256": hashlib.sha256(onnx).hexdigest()}
    golden = {"images": 2, "engines": {name: {"of": "the engine", "tolerance": 0.1}}}
    shown = {"preprocess.json": text(PREPROCESS), "onnx/model.int8.onnx": onnx, "golden/golden.json": text(golden),
             f"engines/{name}/engine.onnx": ENGINE, f"engines/{name}/engine.json": text(record)}
    for path, content in {**shown, "report.json": text(report), "recipe.resolved.yaml": b"name: tiny\n"}.items():
        (run / path).parent.mkdir(parents=True, exist_ok=True)
        (run / path).write_bytes(content)
    np.save(run / "golden/images.npy", np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3))
    np.save(run / f"golden/{name}.npy", np.array(LOGITS, np.float32))
    published = {p.relative_to(run).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
                 for p in run.rglob("*") if p.is_file()}
    (run / "published.json").write_bytes(text(published))
    return run
