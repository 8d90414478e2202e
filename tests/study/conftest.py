"""Studies of builds that take seconds, and builds made up by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest

TINY = """\
name: tiny
data: {source: digits, test_fraction: 0.7}
model: {arch: vgg11_bn, form: cifar, width: 0.125}
train: {epochs: 1}
quantize: {method: ptq, calibrator: max, calibration: {images: 16}}
measure: {warmup: 1, rounds: 2, runs_per_round: 1, throughput_batches: [1]}
engines:
  - {runtime: onnxruntime, precision: fp32}
"""
STUDY = """\
name: pair
seeds: [0, 1]
control: plain
rows:
  plain: {recipe: tiny.yaml}
  smoothed: {recipe: tiny.yaml, set: [train.label_smoothing=0.1]}
"""
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(study text) -> its path, with tiny.yaml beside it."""

    def written(text: str = STUDY, name: str = "study.yaml") -> Path:
        (tmp_path / "tiny.yaml").write_text(TINY)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return written
