"""How fast the command line answers: `--help` (< 0.3 s), `validate` (< 0.6 s), a build with nothing to do (< 3 s).

    python benchmarks/startup.py [RECIPE --out DIR of a finished build]

Medians of whole processes after one warm-up each, interleaved, with the ratio to `python -c pass`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 9


def seconds(command: list[str]) -> float:
    """Wall time of one process, s."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    """Print one line per command."""
    toolchain = [sys.executable, "-m", "toolchain"]
    commands = {"python -c pass": [sys.executable, "-c", "pass"], "--help": [*toolchain, "--help"],
                "validate": [*toolchain, "validate", "recipes/vgg11_int8.yaml"]}
    if sys.argv[1:]:
        commands["build, nothing to do"] = [*toolchain, "build", *sys.argv[1:]]
    samples: dict[str, list[float]] = {name: [] for name in commands}
    for round_ in range(ROUNDS + 1):
        for name, command in commands.items():
            taken = seconds(command)
            if round_:
                samples[name].append(taken)
    floor = statistics.median(samples["python -c pass"])
    for name, taken in samples.items():
        middle = statistics.median(taken)
        print(f"{name:<22} median {middle:6.3f} s  (min {min(taken):.3f}, max {max(taken):.3f}, n {len(taken)})  "
              f"{middle / floor:5.1f} x python -c pass")


if __name__ == "__main__":
    main()
