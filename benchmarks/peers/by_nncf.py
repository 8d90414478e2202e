"""NNCF on an ONNX model. `python by_nncf.py FLOAT.onnx CALIB.npy OUT.onnx SETTING`."""

from __future__ import annotations

import sys
from pathlib import Path

from calib_file import CalibrationFile

SETTINGS = {"performance preset": ("PERFORMANCE", True), "mixed preset": ("MIXED", True),
            "performance preset, full bias correction": ("PERFORMANCE", False)}


def main(float_onnx: Path, calib: Path, out: Path, setting: str) -> None:
    """All images, target CPU."""
    import nncf
    import onnx

    preset, fast = SETTINGS[setting]
    model = onnx.load(float_onnx)
    entry, images = model.graph.input[0].name, CalibrationFile(calib)

    class Items:
        """Each pass over it reads the file anew."""

        def __iter__(self):  # type: ignore[no-untyped-def]
            return images.batches()

    dataset = nncf.Dataset(Items(), lambda image: {entry: image})
    done = nncf.quantize(model, dataset, preset=nncf.QuantizationPreset[preset], subset_size=len(images),
                         target_device=nncf.TargetDevice.CPU, fast_bias_correction=fast)
    onnx.save(done, out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), setting=sys.argv[4])
