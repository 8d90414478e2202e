"""What a finished build achieved, as ratios to FP32, and whether TensorRT-RTX engines repeat byte for byte.

    python benchmarks/ratios.py build/vgg11_int8
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from toolchain.engines import backend
from toolchain.files import sha256_file
from toolchain.recipe.load import load_recipe
from toolchain.steps.target import choose_engines


def main(out: Path) -> None:
    """Print one line per engine: accuracy, speed and storage against the FP32 engine of its runtime."""
    engines = json.loads((out / "report.json").read_text())["engines"]
    reference = {e["runtime"]: e for e in engines if e["precision"] == "fp32"}
    for engine in engines:
        fp32 = reference.get(engine["runtime"], engines[0])
        line = f"{engine['name']:<58} weights {engine['weight_bytes'] / fp32['weight_bytes']:.3f} x FP32"
        if engine["measured"]:
            speed = engine["speedup_vs_fp32"]
            line += (f"  top-1 {engine['top1_percent']:.2f} % ({engine['top1_percent'] - fp32['top1_percent']:+.2f})"
                     f"  speed {speed['value']:.2f} x ({speed['low']:.2f}-{speed['high']:.2f})")
        print(line if engine["measured"] else f"{line}  not measured: {engine['reason']}")
    recipe = load_recipe(out / "recipe.resolved.yaml")
    for name, cfg in choose_engines(recipe).items():
        if cfg.runtime != "tensorrt_rtx":
            continue
        runtime = backend(cfg.runtime)
        onnx = out / "onnx" / f"model.{cfg.precision}.{runtime.rules(cfg)}.onnx"
        with tempfile.TemporaryDirectory() as folder:
            again = sha256_file(runtime.build(onnx, cfg, Path(folder), {}))
        first = next(e["sha256"] for e in engines if e["name"] == name)
        print(f"{name:<58} built again: {'the same bytes' if again == first else 'OTHER BYTES'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
