"""modelopt.onnx.quantization on a CPU. `python by_modelopt.py FLOAT.onnx CALIB.npy OUT.onnx SETTING`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from calib_file import Reader

SETTINGS = {"entropy": "entropy", "max": "max"}


def main(float_onnx: Path, calib: Path, out: Path, setting: str) -> None:
    """FP32 beside INT8, as a CPU wants it. It leaves files beside its input, so it is given a copy."""
    import onnx
    from modelopt.onnx.quantization import quantize

    entry = onnx.load(float_onnx).graph.input[0].name
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "float.onnx"
        shutil.copyfile(float_onnx, copy)
        quantize(str(copy), quantize_mode="int8", calibration_data_reader=Reader(calib, entry),
                 calibration_method=SETTINGS[setting], calibration_eps=["cpu"], high_precision_dtype="fp32",
                 output_path=str(out), log_level="WARNING")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), setting=sys.argv[4])
