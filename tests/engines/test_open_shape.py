import pytest

from toolchain.engines.open_shape import filled


@pytest.mark.parametrize(("shape", "size", "batch", "expected"), [
    ((-1, 3, -1, -1), 24, 1, (1, 3, 24, 24)), ((-1, -1, -1, -1), 24, -1, (-1, 3, 24, 24)),
    ((8, 1, 28, 28), 24, 1, (8, 1, 28, 28)), ((-1, -1, 32, -1), None, 1, (1, -1, 32, -1))])
def test_only_what_is_open_and_known_is_filled_in(shape, size, batch, expected):
    assert filled(shape, size, batch) == expected
