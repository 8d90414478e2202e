"""Memory of graphs that are let go of: an onnx_ir graph refers to itself in circles, which counting cannot free."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def circles_freed() -> Iterator[None]:
    """What is made and let go of inside is freed at the end, circles and all.

    A whole collection does that too, in 0.4 s where torch is loaded: meanwhile none runs, so that everything new is of
    the youngest generation, and that one alone is looked through.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect(0)
        if was_on:
            gc.enable()
