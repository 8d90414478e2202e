"""onnxruntime.quantization.quantize_static. `python by_onnxruntime.py FLOAT.onnx CALIB.npy OUT.onnx SETTING`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from calib_file import Reader

# Its guide for x86 with VNNI: QDQ, U8S8 or U8U8, no reduced range. Its entropy search has one candidate unless it is
# told the number of bins; entropy and percentile keep every activation of every image in memory until the end.
U8S8: dict[str, Any] = {"activation_type": "QUInt8", "weight_type": "QInt8", "per_channel": True}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "u8s8 per channel": U8S8,
    "u8s8 per tensor": {**U8S8, "per_channel": False},
    "u8s8 per channel, layers and adds only": {**U8S8, "op_types_to_quantize": [
        "Conv", "Gemm", "MatMul", "Add", "MaxPool", "GlobalAveragePool", "AveragePool", "Concat"]},
    "u8s8 per channel, entropy": {**U8S8, "calibrate_method": "Entropy", "extra_options": {
        "CalibTensorRangeSymmetric": False}, "num_bins": 2048},
    "u8s8 per channel, percentile": {**U8S8, "calibrate_method": "Percentile"},
}
KEEPS_ACTIVATIONS = ("u8s8 per channel, entropy", "u8s8 per channel, percentile")


def main(float_onnx: Path, calib: Path, out: Path, setting: str) -> None:
    """Its preprocessing first, as its guide asks, then quantize_static."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    chosen = dict(SETTINGS[setting])
    if chosen.pop("num_bins", None):
        _fix_entropy_bins()
    for name in ("activation_type", "weight_type"):
        if name in chosen:
            chosen[name] = QuantType[chosen[name]]
    if "calibrate_method" in chosen:
        chosen["calibrate_method"] = CalibrationMethod[chosen["calibrate_method"]]
    entry = onnx.load(float_onnx).graph.input[0].name
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(float_onnx, prepared, skip_symbolic_shape=True)
        quantize_static(prepared, out, Reader(calib, entry), **chosen)


def _fix_entropy_bins() -> None:
    """2048 bins and 128 levels: quantize_static has no option for it."""
    from onnxruntime.quantization import calibrate

    first = calibrate.EntropyCalibrater.__init__

    def start(self: Any, *args: Any, **kwargs: Any) -> None:
        first(self, *args, **{**kwargs, "num_bins": 2048, "num_quantized_bins": 128})

    calibrate.EntropyCalibrater.__init__ = start


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), setting=sys.argv[4])
