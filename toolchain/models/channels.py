"""Channel counts of a widened or narrowed network."""

from __future__ import annotations


def scaled(channels: int, width: float) -> int:
    """`channels` * width rounded to the nearest multiple of 8 (at least 8); unchanged for width 1.

    Multiples of 8 fill the vector and tensor-core lanes of every target.
    """
    return channels if width == 1 else max(8, int(channels * width / 8 + 0.5) * 8)
