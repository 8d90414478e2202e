"""Images in bounded memory: decoded once into one array, or read batch by batch, a few batches ahead.

Threads, not processes: Pillow decodes and resizes outside the interpreter lock, and nothing has to be pickled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from toolchain.console import bar

BATCHES_AHEAD = 2
SMALL_PIXELS = 128 * 128  # below this, threads cost more than they bring (32x32 JPEG: 1.3 times slower with two)
CHUNK = 64

Read = Callable[[int], NDArray[np.uint8]]


def read_batches(
    read: Read, batches: Iterable[NDArray[np.int64]], workers: int
) -> Iterator[NDArray[np.uint8]]:
    """For each array of indices, the images uint8 (n, S, S, 3), in order; at most BATCHES_AHEAD + 1 are held.

    read: index -> uint8 (S, S, 3). workers: threads; 0 reads in the calling thread. What `read` raises comes through.
    """
    if workers == 0:
        for indices in batches:
            yield np.stack([read(int(i)) for i in indices])
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read")
    waiting: deque[list[Future[NDArray[np.uint8]]]] = deque()
    try:
        for indices in batches:
            waiting.append([pool.submit(read, int(i)) for i in indices])
            if len(waiting) > BATCHES_AHEAD:
                yield np.stack([future.result() for future in waiting.popleft()])
        while waiting:
            yield np.stack([future.result() for future in waiting.popleft()])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def read_all(read: Read, count: int, size: int, workers: int, title: str) -> NDArray[np.uint8]:
    """All `count` images as one uint8 array (count, size, size, 3), with a progress bar under `title`."""
    images = np.empty((count, size, size, 3), np.uint8)
    chunks = np.array_split(np.arange(count), max(1, -(-count // CHUNK)))
    with bar(title, count) as progress:
        start = 0
        for batch in read_batches(read, chunks, workers):
            images[start : start + len(batch)] = batch
            start += len(batch)
            progress.advance(len(batch))
    return images
