"""Engines judged on the test set and on this machine's clock."""

from __future__ import annotations

from toolchain.measure.engines import measure_engines

__all__ = ["measure_engines"]
