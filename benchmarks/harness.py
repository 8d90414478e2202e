"""Our latencies beside those of harnesses that share no code with us, in processes of their own.

    python benchmarks/harness.py MODEL.onnx [--threads 1] [--repeats 5]

ONNX Runtime: a plain loop around `session.run`. OpenVINO: its own `benchmark_app`. Ours: `toolchain bench`. They take
turns, `--repeats` times; what counts is the median over the turns of each, and how far ours is from theirs.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

LOOP = """
import sys, time, statistics, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
given = session.get_inputs()[0]
image = np.random.default_rng(0).standard_normal([1, *given.shape[1:]], np.float32)
for _ in range(50):
    session.run(None, {given.name: image})
spent = []
for _ in range(1000):
    start = time.perf_counter()
    session.run(None, {given.name: image})
    spent.append(time.perf_counter() - start)
print(1e3 * statistics.median(spent))
"""


def ours(model: Path, runtime: str, threads: int) -> tuple[float, str]:
    """(median milliseconds, verdict) of `toolchain bench`."""
    with TemporaryDirectory() as folder:
        found = Path(folder) / "bench.json"
        subprocess.run([sys.executable, "-m", "toolchain", "bench", str(model), "--runtime", runtime, "--threads",
                        str(threads), "--json", str(found)], check=True, capture_output=True)
        (row,) = json.loads(found.read_text())["rows"]
    return row["latency_ms"]["p50"], row["validity"]["verdict"]


def loop(model: Path, threads: int) -> float:
    """Median milliseconds of ONNX Runtime in a plain loop."""
    words = [sys.executable, "-c", LOOP, str(model), str(threads)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def benchmark_app(model: Path, threads: int) -> float | None:
    """Median milliseconds by OpenVINO's own tool; None where it is not installed."""
    tool = shutil.which("benchmark_app", path=str(Path(sys.executable).parent))
    if tool is None:
        return None
    done = subprocess.run([tool, "-m", str(model), "-d", "CPU", "-hint", "none", "-api", "sync", "-nstreams", "1",
                           "-nthreads", str(threads), "-infer_precision", "f32", "-t", "4"], check=True,
                          capture_output=True, text=True)
    found = re.search(r"Median:\s+([\d.]+) (ms|us)", done.stdout)
    if found is None:
        raise SystemExit(f"{tool}: told no median:\n{done.stdout[-2000:]}")
    return float(found.group(1)) * {"ms": 1, "us": 1e-3}[found.group(2)]


def of_one_image(model: Path, folder: Path) -> Path:
    """The file with its batch fixed to 1, so that all harnesses run the same: OpenVINO is slower where it is open."""
    import onnx
    from onnxruntime.tools.onnx_model_utils import make_input_shape_fixed

    network = onnx.load(model)
    given = network.graph.input[0]
    sides = [side.dim_value for side in given.type.tensor_type.shape.dim[1:]]
    make_input_shape_fixed(network.graph, given.name, [1, *sides])
    onnx.save(network, folder / model.name)
    return folder / model.name


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        compare(of_one_image(args.model, Path(folder)), args.threads, args.repeats)


def compare(model: Path, threads: int, repeats: int) -> None:
    """Print a line for each runtime."""
    harnesses = {"onnxruntime": ("a plain loop", loop), "openvino": ("benchmark_app", benchmark_app)}
    for runtime, (name, harness) in harnesses.items():
        mine, theirs, verdicts = [], [], []
        for _ in range(repeats):
            milliseconds, verdict = ours(model, runtime, threads)
            mine.append(milliseconds)
            verdicts.append(verdict)
            if (other := harness(model, threads)) is not None:
                theirs.append(other)
        if not theirs:
            print(f"{runtime}: {name} is not installed")
            continue
        ratio = statistics.median(mine) / statistics.median(theirs)
        print(f"{runtime}: ours {statistics.median(mine):.4f} ms ({verdicts.count('valid')} of {len(verdicts)} valid), "
              f"{name} {statistics.median(theirs):.4f} ms, {100 * (ratio - 1):+.1f} %")


if __name__ == "__main__":
    main()
