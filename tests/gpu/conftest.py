"""Tests that need an NVIDIA GPU and its driver; elsewhere each is skipped with its reason."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from toolchain.engines.gpu import gpus

place = Path(__file__).parents[1] / "engines" / "conftest.py"
spec = importlib.util.spec_from_file_location("engine_networks", place)
assert spec and spec.loader
networks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(networks)
make_onnx, images = networks.make_onnx, networks.images


def pytest_collection_modifyitems(items):
    """Mark everything in this folder `gpu`, and skip it where there is none."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not gpus():
                item.add_marker(pytest.mark.skip(reason="no GPU: no NVIDIA driver, or no device visible"))
