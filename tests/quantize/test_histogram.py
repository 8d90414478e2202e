"""The streaming histogram: exact, and blind to batching and order."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.quantize.histogram import BINS, Histogram


def of(*batches):
    histogram = Histogram()
    for batch in batches:
        assert histogram.add(np.asarray(batch, np.float32))
    return histogram


def same(a, b):
    return (a.exponent, a.min, a.max) == (b.exponent, b.min, b.max) and np.array_equal(a.counts, b.counts)


def test_values_fall_in_the_bins_worked_by_hand():
    # amax 3 < 4 = 2**2, so 4096 bins of width 4 / 4096 = 2**-10: 3 is in bin 3072, 0.5 in 512, |-1| in 1024
    histogram = of([3.0, 0.5, -1.0, 0.0])
    assert histogram.bin_width == 2**-10
    assert {int(i): int(histogram.counts[i]) for i in np.flatnonzero(histogram.counts)} == {0: 1, 512: 1, 1024: 1, 3072: 1}
    assert (histogram.min, histogram.max, histogram.amax) == (-1.0, 3.0, 3.0)


def test_a_power_of_two_lies_in_the_lower_half_of_the_next_range():
    assert np.flatnonzero(of([2.0]).counts).tolist() == [2048]
    assert np.flatnonzero(of([2.0], [4.0]).counts).tolist() == [1024, 2048]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60), st.randoms())
def test_order_and_batching_do_not_change_a_single_count(values, random):
    whole = of(values)
    shuffled = list(values)
    random.shuffle(shuffled)
    cut = random.randint(0, len(values))
    assert same(whole, of(shuffled[:cut], shuffled[cut:]))
    assert same(whole, of(*[[value] for value in shuffled]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=40))
def test_every_value_is_counted_once_and_amax_lies_in_the_upper_half(values):
    histogram = of(values)
    assert histogram.counts.sum() == len(values)
    assert histogram.amax == np.abs(np.float32(values)).max()
    if histogram.amax > 2**-99:
        assert BINS // 2 <= np.flatnonzero(histogram.counts)[-1] == int(histogram.amax / histogram.bin_width)


def test_nan_and_infinity_are_refused_and_leave_no_trace():
    histogram = of([1.0])
    before = histogram.counts.copy()
    assert not histogram.add(np.float32([0.5, np.nan]))
    assert not histogram.add(np.float32([0.5, -np.inf]))
    assert np.array_equal(before, histogram.counts) and histogram.max == 1.0


def test_zeros_alone_have_amax_zero_and_do_not_fix_the_range():
    assert of([0.0, 0.0]).amax == 0.0
    assert same(of([0.0, 0.0], [1e-3]), of([1e-3, 0.0, 0.0]))
