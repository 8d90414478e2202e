"""The choice of precisions against values worked by hand, and against trying every assignment."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.quantize.mixed import Option, first_and_last, least_cost, least_loss, terciles, total

PRECISIONS = ("fp16", "int8", "int4")


def table(costs, losses):
    return {f"l{i}": [Option(p, c, k) for p, c, k in zip(PRECISIONS, row, own, strict=True)]
            for i, (row, own) in enumerate(zip(costs, losses, strict=True))}


def test_first_and_last_are_float_and_a_lone_layer_is_both() -> None:
    assert first_and_last(["a", "b", "c"]) == {"a": "fp16", "b": "int8", "c": "fp16"}
    assert first_and_last(["a"]) == {"a": "fp16"}


def test_terciles_of_six_and_of_seven_layers() -> None:
    six = {"a": 0.1, "b": 0.6, "c": 0.3, "d": 0.5, "e": 0.2, "f": 0.4}  # in order: b d | f c | e a
    assert terciles(six) == {"a": "int4", "b": "fp16", "c": "int8", "d": "fp16", "e": "int4", "f": "int8"}
    seven = terciles({name: 1.0 for name in "abcdefg"})  # all equal: in order of the network, 3 + 2 + 2
    assert list(seven.values()) == ["fp16"] * 3 + ["int8"] * 2 + ["int4"] * 2


def test_a_budget_spends_its_bytes_where_a_byte_saves_most() -> None:
    # both layers in fp16 cost 300; l0 loses 0.5 nats in int4, l1, twice as large, only 0.1
    options = table([[100, 50, 25], [200, 100, 50]], [[0, 0.2, 0.5], [0, 0.05, 0.1]])
    assert least_loss(options, 300) == {"l0": "fp16", "l1": "fp16"}
    assert least_loss(options, 200) == {"l0": "fp16", "l1": "int8"}  # 0.05; l0 in int8 does not free enough
    assert least_loss(options, 150) == {"l0": "fp16", "l1": "int4"}  # 0.1; int8 for both would lose 0.25
    assert least_loss(options, 75) == {"l0": "int4", "l1": "int4"} == least_cost(options)
    assert least_loss(options, 74) is None
    assert total(options, {"l0": "int8", "l1": "int4"}) == (100, pytest.approx(0.3))


@given(st.integers(1, 6).flatmap(lambda n: st.tuples(
    st.lists(st.lists(st.integers(-20, 100), min_size=3, max_size=3), min_size=n, max_size=n),
    st.lists(st.lists(st.integers(0, 50), min_size=3, max_size=3), min_size=n, max_size=n))), st.integers(-50, 500))
def test_the_least_loss_is_that_of_trying_every_assignment_and_never_rises_with_the_budget(tables, budget) -> None:
    options = table(*tables)
    tried = [(sum(o.cost for o in some), sum(o.loss for o in some)) for some in itertools.product(*options.values())]

    def best(limit):
        return min(((loss, cost) for cost, loss in tried if cost <= limit), default=None)

    reached = []
    for limit in (budget, budget + 13, budget + 60):
        found = least_loss(options, limit)
        assert (found is None) == (best(limit) is None)
        if found:
            cost, loss = total(options, found)
            assert (loss, cost) == best(limit)
            reached.append(loss)
    assert reached == sorted(reached, reverse=True)


def test_fifty_layers_are_solved_at_once_and_agree_with_the_linear_bound() -> None:
    rng = np.random.default_rng(0)
    size = rng.integers(100, 100_000, 50)
    loss = np.sort(rng.exponential(0.01, (50, 2)), axis=1)
    options = table(np.stack([2 * size, size, size // 2], axis=1).tolist(), np.c_[np.zeros(50), loss].tolist())
    budget = float(size.sum())
    found = least_loss(options, budget)
    cost, reached = total(options, found)
    # Lagrange: for every price of a byte, min(loss + price * cost) - price * budget is at most the optimum
    bound = max(sum(min(o.loss + price * o.cost for o in some) for some in options.values()) - price * budget
                for price in np.geomspace(1e-9, 1e-4, 400))
    assert cost <= budget and bound <= reached <= bound + loss.max()


def test_uniform_is_the_budget_with_int8_alone() -> None:
    options = {name: [Option("int8", 10, 0.1)] for name in "abc"}
    assert least_loss(options, 30) == dict.fromkeys("abc", "int8") and least_loss(options, 29) is None
