"""A float ONNX file of which one layer at a time is quantized, run by ONNX Runtime; nothing here needs PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxruntime as ort

from toolchain.engines.batching import in_batches
from toolchain.engines.ort_session import session_options, short_reason
from toolchain.errors import EngineError
from toolchain.graph.clean import clean
from toolchain.graph.int4 import quantize_int4
from toolchain.graph.layers import layers
from toolchain.graph.onnx_file import read_onnx
from toolchain.graph.qdq import quantize_int8
from toolchain.graph.rules import RULES
from toolchain.ranges import Ranges
from toolchain.sensitivity.images import Images
from toolchain.sensitivity.scan import Facts, Logits, Network, Setting

TARGET = RULES["cpu_x86"]  # of ONNX Runtime on a CPU, which runs everywhere


def open_quantized(onnx: Path, ranges: Path, block: int, images: Path) -> Network:
    """The float file `onnx` and its calibrated ranges.json. block: weights per INT4 scale. Raises OnnxError."""
    return Quantized(onnx, Ranges.load(ranges), block, Images(images))


class Quantized:
    """One Conv, Gemm or MatMul in INT8 (weights and its input) or with INT4 weights; the rest stays float.

    A layer of fewer than 16 weights per output gets INT8 weights instead of INT4, as everywhere.
    """

    shared = False

    def __init__(self, onnx: Path, ranges: Ranges, block: int, images: Images) -> None:
        self.onnx, self.ranges, self.block = onnx, ranges, block
        self.images, self.labels = images, images.labels

    def facts(self) -> list[Facts]:
        """Every layer with a stored weight; layers that share a name are quantized together and counted once."""
        model = read_onnx(self.onnx)
        passes.ShapeInferencePass()(model)
        return list({layer.name: Facts(layer.name, layer.array.size, layer.macs) for layer in layers(model.graph)
                     }.values())

    def removable(self) -> None:
        """No channels go."""

    def baseline(self) -> Logits:
        """Logits (n, K) of all images from the float file."""
        return self._answers(read_onnx(self.onnx))

    def harmed(self, layer: str, setting: Setting) -> Logits:
        """Logits (n, K) with this layer in `setting` ("int8" or "int4")."""
        model = read_onnx(self.onnx)
        if setting == "int8":
            quantize_int8(model, TARGET, self.ranges, "int8", only={layer})
        else:
            quantize_int4(model, TARGET, self.block, "int4", only={layer})
        clean(model)
        return self._answers(model)

    def _answers(self, model: ir.Model) -> Logits:
        options = session_options(threads=1)
        # pairs of Q and DQ stay where they stand: single ones are moved past other nodes, whose values they then round
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options,
                                           providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            reason = short_reason(error)
            raise EngineError(f"{self.onnx}: ONNX Runtime {ort.__version__} refuses it: {reason}") from None
        given = session.get_inputs()[0]
        batches = (given.shape[0], given.shape[0]) if isinstance(given.shape[0], int) else (1, None)

        def run(images: np.ndarray) -> Logits:
            return session.run(None, {given.name: images})[0].astype(np.float32, copy=False)

        return np.concatenate([in_batches(run, batch, batches) for batch in self.images.batches()])
