import pytest

from toolchain.errors import RecipeError, TrainError
from toolchain.prune.amounts import amount_at, envelope, equal_drop_counts

SIZES = {"a": 100, "b": 100}


@pytest.mark.parametrize(("curves", "total", "counts"), [
    # at drop d layer a gives 10 d weights and b gives 5 d: 15 d = 60
    ({"a": [(0.5, 5.0)], "b": [(0.5, 10.0)]}, 60, {"a": 40, "b": 20}),
    # a has given all that was scanned; b goes on to drop 8
    ({"a": [(0.5, 5.0)], "b": [(0.5, 10.0)]}, 90, {"a": 50, "b": 40}),
    ({"a": [(0.5, 5.0)], "b": [(0.5, 10.0)]}, 100, {"a": 50, "b": 50}),
    # what costs nothing goes first
    ({"a": [(0.5, 0.0)], "b": [(0.5, 10.0)]}, 30, {"a": 30, "b": 0}),
    ({"a": [(0.5, 0.0)], "b": [(0.5, 10.0)]}, 70, {"a": 50, "b": 20}),
    # both for nothing: each goes half of its way, 25 + 45
    ({"a": [(0.5, 0.0)], "b": [(0.9, 0.0)]}, 70, {"a": 25, "b": 45}),
    # a gain is no drop
    ({"a": [(0.5, -3.0)], "b": [(0.5, 10.0)]}, 60, {"a": 50, "b": 10}),
])
def test_every_layer_gives_what_costs_the_same_drop(curves, total, counts) -> None:
    assert equal_drop_counts(SIZES, total, curves) == counts


def test_a_curve_that_falls_again_is_its_running_maximum() -> None:
    rising = envelope([(0.2, 3.0), (0.4, 1.0), (0.6, 5.0)])
    assert rising == [(0, 0), (0.2, 3.0), (0.4, 3.0), (0.6, 5.0)]
    assert amount_at(3.0, rising) == 0.4  # the level part belongs to the drop
    assert amount_at(4.0, rising) == pytest.approx(0.5)
    assert amount_at(9.0, rising) == 0.6


def test_one_per_cent_of_a_layer_always_stays() -> None:
    assert envelope([(0.5, 1.0), (0.995, 2.98)])[-1] == (0.99, pytest.approx(2.96))
    assert equal_drop_counts({"a": 150}, 148, {"a": [(0.995, 1.0)]}) == {"a": 148}  # 148.5 at most
    with pytest.raises(TrainError, match="at most 0.98"):
        equal_drop_counts({"a": 150}, 149, {"a": [(0.995, 1.0)]})


def test_more_than_the_scan_covers_is_refused_with_what_it_covers() -> None:
    with pytest.raises(TrainError, match=r"prune.amount: found 0.505 of the weights, but the scan covers at most 0.5;"):
        equal_drop_counts(SIZES, 101, {"a": [(0.5, 5.0)], "b": [(0.5, 10.0)]})


def test_the_scan_of_another_network_is_refused_by_layer() -> None:
    with pytest.raises(RecipeError, match="prune.scan.file: it scans the layers a, c, …, and b is a layer of only one"):
        equal_drop_counts(SIZES, 10, {"a": [(0.5, 5.0)], "c": [(0.5, 10.0)]})


@pytest.mark.parametrize("total", range(0, 271, 7))
def test_counts_add_up_to_the_last_weight_and_never_fall(total: int) -> None:
    sizes = {"a": 101, "b": 53, "c": 149}
    curves = {"a": [(0.3, 1.0), (0.9, 7.0)], "b": [(0.3, 0.0), (0.9, 2.0)], "c": [(0.3, 4.0), (0.9, 4.0)]}
    counts = equal_drop_counts(sizes, total, curves)
    assert sum(counts.values()) == total
    later = equal_drop_counts(sizes, total + 1, curves, counts)
    assert all(later[name] >= counts[name] for name in sizes) and total + 1 <= sum(later.values()) <= total + 2
