"""OpenVINO models: compiled, run and timed on the CPU."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from toolchain.engines.batching import check_batch, check_input, in_batches
from toolchain.engines.cpu import default_threads
from toolchain.engines.open_shape import filled
from toolchain.engines.protocol import Images, Logits
from toolchain.engines.record import EngineRecord, describe, write_record
from toolchain.errors import EngineError
from toolchain.files import write_bytes

VERSION = ov.get_version().split("-")[0]
HINT = {"bf16": "bf16"}  # else f32: Q/DQ pairs run in int8 whatever the hint, the rest in f32


@lru_cache(maxsize=1)
def capabilities() -> list[str]:
    """OpenVINO's OPTIMIZATION_CAPABILITIES of the CPU."""
    return [str(c) for c in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")]


def read_model(path: Path) -> ov.Model:
    """The network in `path`, not compiled yet. Raises EngineError with the runtime's reason."""
    if path.stat().st_size == 0:  # OpenVINO would try every format it knows, with noise on stderr
        raise EngineError(f"{path}: the file is empty; make it again")
    try:
        model = ov.Core().read_model(str(path))
    except RuntimeError as error:
        raise EngineError(f"{path}: OpenVINO {VERSION} refuses it: {short_reason(error)}") from None
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise EngineError(f"{path}: found {len(model.inputs)} inputs and {len(model.outputs)} outputs, expected one "
                          "input (images) and one output (logits)")
    return model


def compile_model(model: ov.Model, precision: str, threads: int | None, shape: Sequence[int]) -> ov.CompiledModel:
    """`model` for images of this shape (-1: any), in one stream of `threads`, for latency.

    Left open, a batch of 1 takes up to a third longer. Raises RuntimeError with OpenVINO's reason.
    """
    options = {"INFERENCE_PRECISION_HINT": HINT.get(precision, "f32"), "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
               "INFERENCE_NUM_THREADS": threads or default_threads(),
               "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}  # by default it rounds the inputs of weight-only linear layers too
    fixed = model.clone()
    fixed.reshape(ov.PartialShape(list(shape)))
    return ov.Core().compile_model(fixed, "CPU", options)


def shape_of(model: ov.Model) -> tuple[int, ...]:
    """(N, C, H, W) of the input, -1 where it is open."""
    return tuple(-1 if d.is_dynamic else d.get_length() for d in model.inputs[0].get_partial_shape())


def short_reason(error: Exception) -> str:
    """The lines of an OpenVINO error that say what is wrong, without its source locations."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(("Exception from src/", "Check '"))]
    return " ".join(told or lines)[:300]


class OpenVinoEngine:
    """One network with one infer request, compiled anew when images of another shape come."""

    def __init__(self, record: EngineRecord, path: Path, threads: int | None) -> None:
        self.record, self.threads = record, threads
        self.model = read_model(path)
        self.input_shape = shape_of(self.model)
        fixed = self.input_shape[0]
        self.batches: tuple[int, int | None] = (1, None) if fixed == -1 else (fixed, fixed)
        self.request: ov.InferRequest | None = None
        self.shape: tuple[int, ...] | None = None  # of the images that `request` takes

    def _ran(self, images: Images) -> ov.InferRequest:
        """The request, which has run on `images` and is bound to their memory."""
        try:
            if self.request is None or images.shape != self.shape:
                compiled = compile_model(self.model, self.record.precision, self.threads, images.shape)
                self.request, self.shape = compiled.create_infer_request(), images.shape
            self.request.infer({0: images}, share_inputs=True)
        except RuntimeError as error:
            raise EngineError(f"{self.record.name}: OpenVINO could not run it: {short_reason(error)}") from None
        return self.request

    def _run(self, images: Images) -> Logits:
        output = self._ran(images).get_output_tensor(0)
        return output.data.astype(np.float32)  # a copy: the tensor is reused

    def infer(self, images: Images) -> Logits:
        """Logits (N, K) of images (N, C, H, W). Raises EngineError."""
        check_input(self.record.name, images, self.input_shape)
        return in_batches(self._run, np.ascontiguousarray(images, np.float32), self.batches)

    def time_ms(self, images: Images, runs: int) -> NDArray[np.float64]:
        """(runs,) milliseconds by the wall clock, the input bound once."""
        check_input(self.record.name, images, self.input_shape)
        check_batch(self.record.name, images, self.batches)
        images = np.ascontiguousarray(images, np.float32)  # must outlive the runs: the request reads this memory
        request = self._ran(images)
        samples = np.empty(runs)
        for i in range(runs):
            start = time.perf_counter_ns()
            request.infer(share_outputs=True)  # the logits stay where they are, as the input does
            samples[i] = (time.perf_counter_ns() - start) / 1e6
        return samples

    def transfer_ms(self, images: Images, runs: int) -> NDArray[np.float64] | None:
        """Nothing is copied to another device."""
        return None

    def device_bytes(self) -> int | None:
        """No GPU is used."""
        return None


@contextmanager
def open_engine(record: EngineRecord, path: Path, threads: int | None) -> Iterator[OpenVinoEngine]:
    """Yield the engine; its threads and memory are released at the end."""
    engine = OpenVinoEngine(record, path, threads)
    try:
        yield engine
    finally:
        engine.request = None
        del engine.model


def build_engine(onnx_path: Path, cfg: Any, folder: Path, info: dict[str, Any], compute: str) -> Path:
    """Copy, compile for one image, record. info["image_size"] says how large where the file leaves it open."""
    engine = folder / "engine.onnx"
    write_bytes(engine, onnx_path.read_bytes())
    model = read_model(engine)
    try:
        compiled = compile_model(model, cfg.precision, 1, filled(shape_of(model), info.get("image_size"), batch=1))
    except RuntimeError as error:
        raise EngineError(f"{engine}: OpenVINO {VERSION} refuses it: {short_reason(error)}") from None
    device = str(ov.Core().get_property("CPU", "FULL_DEVICE_NAME")).strip()
    write_record(folder, describe(cfg, engine, onnx_path, info, compute=compute, runtime_version=VERSION, device=device,
                                  layers=realized_layers(compiled)))
    return engine


def realized_layers(model: ov.CompiledModel) -> list[dict[str, Any]]:
    """[{name, op, dtype, shape, origin}] of the compiled model, after OpenVINO's own fusions; constants are left out.

    dtype: the precision the layer runs in. shape: of its first output, -1 where dynamic. origin: names of the nodes of
    the ONNX file that it holds.
    """
    layers = []
    for op in model.get_runtime_model().get_ordered_ops():
        facts = op.get_rt_info()
        kind = str(facts["layerType"].value)
        if kind == "Const":
            continue
        dims = op.get_output_partial_shape(0) if op.get_output_size() else []
        origin = str(facts["originalLayersNames"].value).split(",") if "originalLayersNames" in facts else []
        layers.append({"name": op.get_friendly_name(), "op": kind, "dtype": str(facts["runtimePrecision"].value),
                       "shape": [-1 if d.is_dynamic else d.get_length() for d in dims],
                       "origin": [name for name in origin if name]})
    return layers
