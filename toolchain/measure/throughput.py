"""Throughput: images per second over a sweep of batch sizes."""

from __future__ import annotations

import numpy as np

from toolchain.engines.protocol import Images, Loaded

WARMUP, RUNS = 2, 5


def takes(engine: Loaded, batch: int) -> bool:
    """Whether one run of the engine takes this batch size."""
    smallest, largest = engine.batches
    return smallest <= batch and (largest is None or batch <= largest)


def images_per_s(engine: Loaded, images: Images) -> float:
    """Batch size over the median time of RUNS runs, after WARMUP untimed ones."""
    seconds = np.median(engine.time_ms(images, WARMUP + RUNS)[WARMUP:]) / 1e3
    return float(len(images) / seconds)


def sweep(engine: Loaded, images: Images, batch_sizes: tuple[int, ...]) -> list[dict[str, float | int]]:
    """[{batch, images_per_s}] for the batch sizes that the engine takes.

    images: (N, C, H, W), repeated as needed to fill a batch.
    """
    return [{"batch": size, "images_per_s": images_per_s(engine, fill(images, size))}
            for size in batch_sizes if takes(engine, size)]


def fill(images: Images, size: int) -> Images:
    """(size, C, H, W): the first `size` images, starting over when there are fewer."""
    return np.ascontiguousarray(images[np.arange(size) % len(images)])
