"""The engine tests' small networks, and an engine whose answers and times are known."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

place = Path(__file__).parents[1] / "engines" / "conftest.py"
spec = importlib.util.spec_from_file_location("engine_networks", place)
assert spec and spec.loader
networks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(networks)
make_onnx, images = networks.make_onnx, networks.images


class Stub:
    """Logits looked up by the image's first pixel; every run takes `ms` on its own clock."""

    input_shape = (-1, 1, 1, 1)

    def __init__(self, logits, ms=1.0, batches=(1, None), calls=None):
        self.logits, self.ms, self.batches = np.asarray(logits, np.float32), ms, batches
        self.calls = calls if calls is not None else []

    def infer(self, images):
        return self.logits[images[:, 0, 0, 0].astype(int)]

    def time_ms(self, images, runs):
        self.calls.append((self, len(images), runs))
        return np.arange(runs, dtype=float) + self.ms  # ms, ms + 1, ms + 2, …

    def transfer_ms(self, images, runs):
        return None

    def device_bytes(self):
        return None


@pytest.fixture
def stub():
    """The class, to make engines of."""
    return Stub
