"""Reading and writing ONNX files: damaged ones are refused, written ones checked, whole, and equal byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from toolchain.errors import OnnxError
from toolchain.files import write_bytes

IR_VERSION = 10  # opset 21 needs 10; every runtime we build for reads it
TWO_GB = 2**31 - 1


def read_onnx(path: Path) -> ir.Model:
    """The model in `path`, external data beside it read in.

    Raises OnnxError when it is missing, empty, damaged or above 2 GB, or its data lies outside its folder.
    """
    if not path.is_file():
        raise OnnxError(f"{path}: no such file; expected an ONNX file")
    if path.stat().st_size == 0:
        raise OnnxError(f"{path}: the file is empty (0 bytes); expected an ONNX file; write it again")
    try:
        proto = onnx.load(path, format="protobuf", load_external_data=False)
        size = sum(file.stat().st_size for file in (path, *_beside(proto, path)))
        if size > TWO_GB:
            raise OnnxError(f"{path}: {size / 1e9:.1f} GB with its external data; expected at most 2 GB, ONNX's limit "
                            "for the one file that engines are made from; use a smaller network")
        onnx.load_external_data_for_model(proto, str(path.parent))
        if not proto.graph.output:
            raise ValueError("it has no graph outputs")
        return ir.from_proto(proto)
    except FileNotFoundError as missing:
        raise OnnxError(f"{path}: its external data is missing ({missing}); keep the data file beside it") from None
    except onnx.checker.ValidationError as wrong:
        raise OnnxError(f"{path}: its external data cannot be read ({_first_line(wrong)})") from None
    except (DecodeError, ValueError, KeyError, TypeError, OSError) as wrong:
        reason = _first_line(wrong)
        raise OnnxError(f"{path}: not an ONNX file, or truncated ({reason}); copy or export it again") from None


def external_files(path: Path) -> list[Path]:
    """Files that hold tensors of the ONNX file `path`, which exist and lie in its folder, each once.

    Raises DecodeError for what is no ONNX file.
    """
    return _beside(onnx.load(path, format="protobuf", load_external_data=False), path)


def absent_files(path: Path) -> list[str]:
    """Names of the files that hold tensors of the ONNX file `path` and do not exist, or not in its folder.

    Raises DecodeError for what is no ONNX file.
    """
    proto = onnx.load(path, format="protobuf", load_external_data=False)
    there = {file.relative_to(path.parent) for file in _beside(proto, path)}
    return [name for name in _locations(proto) if Path(name) not in there]


def _locations(proto: onnx.ModelProto) -> list[str]:
    return sorted({entry.value for tensor in _tensors(proto.graph) for entry in tensor.external_data
                   if entry.key == "location"})


def _beside(proto: onnx.ModelProto, path: Path) -> list[Path]:
    folder = path.parent.resolve()
    return [path.parent / name for name in _locations(proto)
            if (folder / name).is_file() and (folder / name).resolve().is_relative_to(folder)]


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def check_onnx(proto: onnx.ModelProto, path: Path) -> None:
    """onnx's full check (structure, types, strict shapes). Raises OnnxError with its reason."""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as wrong:
        raise OnnxError(f"{path}: not valid ONNX: {_first_line(wrong)}") from None


def write_onnx(model: ir.Model, path: Path, lean: bool = False) -> None:
    """Check `model`, then write it whole or not at all; equal models give equal bytes. Raises OnnxError.

    lean: without the second record of a stored tensor's type and shape, which onnx_ir writes beside the tensor's own.
    """
    model.ir_version = max(IR_VERSION, model.ir_version or 0)
    proto = ir.to_proto(model)
    if lean:
        stored = {tensor.name for tensor in proto.graph.initializer}
        told = [value for value in proto.graph.value_info if value.name not in stored]
        del proto.graph.value_info[:]
        proto.graph.value_info.extend(told)
    check_onnx(proto, path)
    if proto.ByteSize() > TWO_GB:
        raise OnnxError(f"{path}: {proto.ByteSize() / 1e9:.1f} GB is above ONNX's limit of 2 GB for one file")
    write_bytes(path, proto.SerializeToString(deterministic=True))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def image_sides(path: Path) -> list[int | None]:
    """Height and width of the images that the network in `path` takes; None: left open. Empty: not told, or no network.
    """
    try:
        graph = onnx.load(path, format="protobuf", load_external_data=False).graph
    except (DecodeError, ValueError):
        return []
    weights = {tensor.name for tensor in graph.initializer}
    given = next((one.type.tensor_type.shape.dim for one in graph.input if one.name not in weights), ())
    return [side.dim_value if side.HasField("dim_value") else None for side in list(given)[2:]]
