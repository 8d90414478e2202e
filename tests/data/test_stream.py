import threading

import numpy as np
import pytest

from toolchain.data.stream import BATCHES_AHEAD, read_all, read_batches


def image(value: int) -> np.ndarray:
    return np.full((2, 2, 3), value, np.uint8)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_come_in_order_whatever_the_number_of_threads(workers):
    chunks = [np.array([5, 1]), np.array([9]), np.array([0, 2, 4])]
    seen = [batch[:, 0, 0, 0].tolist() for batch in read_batches(image, chunks, workers)]
    assert seen == [[5, 1], [9], [0, 2, 4]]


def test_no_more_than_a_few_batches_are_read_ahead():
    started = set()
    lock = threading.Lock()

    def read(index: int) -> np.ndarray:
        with lock:
            started.add(index)
        return image(index)

    stream = read_batches(read, ([i] for i in range(100)), workers=2)
    next(stream)
    assert max(started) <= BATCHES_AHEAD
    stream.close()
    assert threading.active_count() < 10


def test_an_error_in_a_thread_reaches_the_reader():
    def read(index: int) -> np.ndarray:
        raise ValueError(f"bad {index}")

    with pytest.raises(ValueError, match="bad 7"):
        list(read_batches(read, [np.array([7])], workers=2))


def test_read_all_puts_every_image_in_its_place():
    images = read_all(image, 130, 2, 2, "decode")
    assert images.shape == (130, 2, 2, 3) and images[:, 0, 0, 0].tolist() == list(range(130))
