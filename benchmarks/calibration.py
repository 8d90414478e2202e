"""Does calibration's memory stay flat, and its time linear, as images grow? Entropy on a torchvision ResNet-18 at 224.

    python benchmarks/calibration.py

Each row is a process of its own; its peak resident memory is the operating system's figure.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COUNTS = (64, 256, 1024)


def calibrate(onnx: Path, images: int) -> None:
    """Calibrate on `images` random images, drawn one at a time; print seconds and peak MB."""
    import numpy as np

    from toolchain.quantize.calibrate import calibrate as run
    from toolchain.recipe.schema import EntropyCalibrator

    rng = np.random.default_rng(0)
    start = time.perf_counter()
    run(onnx, (rng.standard_normal((1, 3, 224, 224), dtype=np.float32) for _ in range(images)),
        EntropyCalibrator(method="entropy"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{images:5d} images  {time.perf_counter() - start:7.1f} s  peak {peak:7.0f} MB", flush=True)


def main() -> None:
    """Export the network once, then one process per image count."""
    import torchvision

    from toolchain.export import export_onnx
    from toolchain.recipe.schema import Export

    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "resnet18.onnx"
        export_onnx(torchvision.models.resnet18().eval(), onnx, Export(), 224, 1000)
        for count in COUNTS:
            subprocess.run([sys.executable, __file__, str(onnx), str(count)], check=True)


if __name__ == "__main__":
    calibrate(Path(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) == 3 else main()
