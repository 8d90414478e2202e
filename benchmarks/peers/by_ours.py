"""This project: calibrate, then convert, as a build does. `python by_ours.py FLOAT.onnx CALIB.npy OUT.onnx SETTING`."""

from __future__ import annotations

import sys
from pathlib import Path

from calib_file import CalibrationFile

SETTINGS = {"entropy": {"method": "entropy"}, "max": {"method": "max"},
            "percentile": {"method": "percentile", "percentile": 99.99}, "mse": {"method": "mse"}}


def main(float_onnx: Path, calib: Path, out: Path, setting: str) -> None:
    """Write `out`. The images that the converted file is compared on are the first calibration images."""
    from pydantic import TypeAdapter

    from toolchain.graph.convert import convert
    from toolchain.quantize.calibrate import calibrate
    from toolchain.recipe.quantize import Calibrator

    images = CalibrationFile(calib)
    ranges = calibrate(float_onnx, images.batches(), TypeAdapter(Calibrator).validate_python(SETTINGS[setting]))
    convert(float_onnx, out, "int8", "cpu_x86", ranges, probe=next(images.batches(16)))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), setting=sys.argv[4])
