"""engine.json: what stands beside every engine file, and the check that the file is still the one it describes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from toolchain.errors import DigestMismatch, EngineError
from toolchain.files import sha256_file, write_text

RECORD = "engine.json"
WORDS = ("name", "precision", "compute", "runtime", "runtime_version", "target", "onnx_sha256", "engine", "sha256",
         "device")


@dataclass(frozen=True)
class EngineRecord:
    """One engine as it was built; holds no time stamp, so the same build writes the same bytes.

    compute: what the arithmetic runs in (an fp16 file on a CPU stores halves and computes in fp32). engine: file name.
    weight_bytes: weights as stored in the ONNX file. device: the CPU or GPU it was built on or for.
    profile: batch sizes {min, opt, max}, None where the runtime takes any. layers: [{name, op, dtype, shape}].
    sparse: of a TensorRT engine with 2:4 sparse layers, {layers, in_file, eligible, chosen}: how many layers with
    weights it has, are 2:4 in the ONNX file, could run with sparse tactics, and do; the last two are None where
    TensorRT does not tell. None, and left out of the file, where no layer is sparse.
    """

    name: str
    precision: str
    compute: str
    runtime: str
    runtime_version: str
    target: str
    onnx_sha256: str
    engine: str
    sha256: str
    engine_bytes: int
    weight_bytes: int | None
    device: str
    profile: dict[str, int] | None
    layers: list[dict[str, Any]]
    sparse: dict[str, int | None] | None = None


def engine_name(cfg: Any) -> str:
    """`int8.onnxruntime.cpu_x86`: how one engine is called in folders, reports and limits."""
    return f"{cfg.precision}.{cfg.runtime}.{cfg.target}"


def describe(
    cfg: Any, engine: Path, onnx_path: Path, info: dict[str, Any], *, compute: str, runtime_version: str, device: str,
    layers: list[dict[str, Any]], profile: dict[str, int] | None = None, sparse: dict[str, int | None] | None = None,
) -> EngineRecord:
    """The record of the engine file that now lies at `engine`."""
    return EngineRecord(
        name=engine_name(cfg), precision=cfg.precision, compute=compute, runtime=cfg.runtime,
        runtime_version=runtime_version, target=cfg.target, onnx_sha256=sha256_file(onnx_path), engine=engine.name,
        sha256=sha256_file(engine), engine_bytes=engine.stat().st_size, weight_bytes=info.get("weight_bytes"),
        device=device, profile=profile, layers=layers, sparse=sparse)


def write_record(folder: Path, record: EngineRecord) -> None:
    """Write engine.json atomically."""
    content = asdict(record)
    if record.sparse is None:
        del content["sparse"]
    write_text(folder / RECORD, json.dumps(content, indent=1) + "\n")


def read_record(folder: Path) -> EngineRecord:
    """The engine.json of `folder`. Raises EngineError when it is missing or damaged."""
    path = Path(folder) / RECORD
    try:
        content = json.loads(path.read_bytes())
        needed = {field.name: content[field.name] for field in fields(EngineRecord) if field.name != "sparse"}
        if wrong := [field for field in WORDS if not isinstance(needed[field], str)]:
            raise TypeError(f"{wrong[0]} is no text")
        return EngineRecord(**needed, sparse=content.get("sparse"))
    except FileNotFoundError:
        raise EngineError(f"{folder}: it holds no {RECORD}, so it is no engine folder; build it first") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EngineError(f"{path}: not a whole engine record ({type(error).__name__}: {error}); "
                          "build the engine again") from None


def verify(folder: Path) -> tuple[EngineRecord, Path]:
    """The record and the engine file of `folder`, after comparing the file's SHA-256 with the record.

    Raises EngineError (no record, no file) or DigestMismatch (the file was altered).
    """
    record = read_record(folder)
    path = Path(folder) / record.engine
    if not path.is_file():
        raise EngineError(f"{path}: the engine file that {RECORD} names is missing; build the engine again")
    found = sha256_file(path)
    if found != record.sha256:
        raise DigestMismatch(f"{path}: SHA-256 is {found[:16]}, but {record.sha256[:16]} was recorded when it was "
                             f"built; the file was altered: delete {folder} and build the engine again")
    return record, path
