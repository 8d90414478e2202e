"""Graphs that are let go of do not stay in memory."""

import gc
import weakref

import pytest

from toolchain.graph.circles import circles_freed


class Node:
    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize("collecting", [True, False])
def test_what_refers_to_itself_is_freed_and_collection_goes_on_as_before(collecting: bool) -> None:
    (gc.enable if collecting else gc.disable)()
    try:
        with circles_freed():
            gone = weakref.ref(Node())
            many = [Node() for _ in range(5000)]  # collections would have run meanwhile, and made the first one old
            assert gone() is not None
        assert gone() is None and len(many) == 5000 and gc.isenabled() is collecting
        with pytest.raises(ValueError), circles_freed():
            raise ValueError
        assert gc.isenabled() is collecting
    finally:
        gc.enable()
