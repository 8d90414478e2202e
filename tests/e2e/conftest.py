"""Runs the real command line in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = """\
name: tiny
data: {source: digits}
model: {arch: vgg11_bn, form: cifar, width: 0.125}
train: {epochs: 2}
quantize: {method: ptq, calibrator: max, calibration: {images: 32}}
measure: {warmup: 2, rounds: 3, runs_per_round: 3, throughput_batches: [1]}
engines:
  - {runtime: onnxruntime, precision: fp32}
  - {runtime: onnxruntime, precision: int8}
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def toolchain() -> Run:
    """toolchain(*words, env=…) -> the finished process, its output as text."""

    def run(*words: object, timeout: float = 600, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "toolchain", *map(str, words)], capture_output=True, text=True,
                              timeout=timeout, cwd=ROOT, env={**os.environ, **env})

    return run


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that builds in seconds."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def tiny_build(toolchain: Run, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a finished tiny build."""
    out = tmp_path_factory.mktemp("tiny")
    done = toolchain("build", tiny_recipe, "--out", out)
    assert done.returncode == 0, done.stderr
    return out
