"""GPFQ of one layer against the paper's recursion, written out weight by weight."""

import math

import numpy as np
import pytest

from toolchain.quantize import gpfq as module
from toolchain.quantize.gpfq import Alphabet, Inputs, gpfq, scales
from toolchain.recipe.schema import Gpfq

LOOPS = [Alphabet(7), Alphabet(1), Alphabet(8), Alphabet(4, soft=0.1), Alphabet(4, hard=0.2)]


def level(a, d, alphabet):
    """The paper's A(a) and its sparse forms, for one number: (code, value)."""
    if alphabet.hard is not None:
        if abs(a) <= alphabet.hard:
            return 0, 0.0
        sign, beyond = math.copysign(1, a), a - math.copysign(alphabet.hard, a)
        k = min(abs(math.floor(beyond / d + 0.5)), alphabet.largest - 1)
        return int(sign * (k + 1)), sign * (alphabet.hard + d * k)
    if alphabet.soft is not None:
        a = math.copysign(max(abs(a) - alphabet.soft, 0.0), a)
    k = math.copysign(min(abs(math.floor(a / d + 0.5)), alphabet.largest), a)
    return int(k), k * d


def recursion(w, x, xq, d, alphabet):
    """U_t = U_{t-1} + w_t x_t - q_t x~_t with q_t = A(<U_{t-1} + w_t x_t, x~_t> / |x~_t|^2): codes (N, d), |U|_F."""
    codes, squares = np.zeros(w.shape, int), 0.0
    for i, neuron in enumerate(w.astype(float)):
        u = np.zeros(len(x))
        for t, weight in enumerate(neuron):
            u = u + weight * x[:, t]
            norm = float(xq[:, t] @ xq[:, t])
            a = float(u @ xq[:, t]) / norm if norm > 0 else 0.0
            codes[i, t], value = level(a, float(d[i]), alphabet)
            u = u - value * xq[:, t]
        squares += float(u @ u)
    return codes, math.sqrt(squares)


def quantized(w, x, xq, d, alphabet, expected_rows=None):
    """(codes (N, d), relative error) of our code for one group, rows given in two uneven parts."""
    inputs = Inputs(w[None], expected_rows or len(x))
    for part in (slice(0, 3), slice(3, None)):
        inputs.add(x[None, part], xq[None, part])
    codes = gpfq(inputs, d[None], alphabet)
    return codes[0], inputs.relative_error(alphabet.values(codes, d[None, :, None].astype(float)))


def layer(neurons=12, features=150, rows=40, seed=0):
    """Weights, and inputs that are correlated (half of each is common to all features) and a little off in X~."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features)) + rng.normal(size=(rows, 1))
    return (rng.normal(size=(neurons, features)).astype(np.float32), x.astype(np.float32),
            (x + 0.1 * rng.normal(size=x.shape)).astype(np.float32))


@pytest.mark.parametrize("alphabet", LOOPS, ids=str)
@pytest.mark.parametrize("rows", [40, 400], ids=["rows kept", "products kept"])
def test_codes_and_error_are_those_of_the_recursion(alphabet, rows):
    w, x, xq = layer(rows=rows)
    x[:, 5], xq[:, 70] = 0, 0  # columns without anything to answer with, in the float or in the quantized network
    d = np.linspace(0.2, 0.5, len(w)).astype(np.float32)
    expected, error = recursion(w, x, xq, d, alphabet)
    codes, found = quantized(w, x, xq, d, alphabet)
    assert (codes == expected).all() and (codes[:, 70] == 0).all()
    assert found == pytest.approx(error / np.linalg.norm(x.astype(float) @ w.astype(float).T), rel=1e-5)


def test_kept_rows_and_kept_products_give_the_same_codes():
    w, x, xq = layer()
    d = np.full(len(w), 0.3, np.float32)
    (rows, error), (products, same) = (quantized(w, x, xq, d, Alphabet(7), expected) for expected in (40, 10_000))
    assert (rows == products).all() and error == pytest.approx(same, rel=1e-6)


@pytest.mark.parametrize("rows", [40, 400])
def test_neurons_taken_in_parts_give_the_same_codes(monkeypatch, rows):
    w, x, xq = layer(rows=rows)
    d = np.full(len(w), 0.3, np.float32)
    whole = quantized(w, x, xq, d, Alphabet(7))
    monkeypatch.setattr(module, "PART_VALUES", 5 * max(rows, 150))  # five neurons at a time
    parts = quantized(w, x, xq, d, Alphabet(7))
    assert (parts[0] == whole[0]).all() and parts[1] == pytest.approx(whole[1], rel=1e-9)


def test_groups_are_layers_side_by_side():
    (w, x, xq), (w2, x2, xq2) = layer(features=20), layer(features=20, seed=1)
    d = np.full(len(w), 0.3, np.float32)
    inputs = Inputs(np.stack([w, w2]), len(x))
    inputs.add(np.stack([x, x2]), np.stack([xq, xq2]))
    both = gpfq(inputs, np.stack([d, d]), Alphabet(7))
    for group, one in enumerate([(w, x, xq), (w2, x2, xq2)]):
        assert (both[group] == recursion(*one, d, Alphabet(7))[0]).all()


def test_a_half_is_rounded_up_and_levels_end_at_the_largest():
    # /0.5: -3.5 -> -3, -0.5 -> 0, 0.5 -> 1, 1.5 -> 2 (a half to even would give -4, 0, 0, 2), 9 -> 3
    found = Alphabet(3).codes(np.array([-1.75, -0.25, 0.25, 0.75, 4.5, -4.5]), np.array(0.5))
    assert found.tolist() == [-3, 0, 1, 2, 3, -3]


@pytest.mark.parametrize(("alphabet", "bits", "levels"), [
    ("deployable", 2, 3), ("deployable", 4, 15), ("deployable", 8, 255), ("study", 2, 5), ("study", 4, 17), ("study", 8, 257),
])
def test_number_of_levels(alphabet, bits, levels):
    cfg = Gpfq(method="gpfq", bits=bits, alphabet=alphabet)
    assert Alphabet.of(cfg).levels == levels
    values = Alphabet.of(cfg).codes(np.linspace(-2, 2, 5001), np.array(1.5 / cfg.largest_code))
    assert len(set(values.tolist())) == levels


def test_the_scale_of_a_layer_and_of_a_channel_worked_by_hand():
    rows = np.float32([[1, -2, 0.5], [0, 8, -4], [0, 0, 0]])
    four = Gpfq(method="gpfq", bits=4)
    # largest |w| of the rows 2, 8, 0: mean 10/3, times 1.16, over 7 steps
    assert scales(rows, Alphabet.of(four), four) == pytest.approx([1.16 * 10 / 3 / 7] * 3)
    channel = four.model_copy(update={"radius": "channel"})
    assert scales(rows, Alphabet.of(channel), channel) == pytest.approx([1.16 * 2 / 7, 1.16 * 8 / 7, 1])
    # the median of |w|: 1, 4, 0
    median = channel.model_copy(update={"percentile": 0.5, "scalar": 1.0})
    assert scales(rows, Alphabet.of(median), median) == pytest.approx([1 / 7, 4 / 7, 1])


def test_a_threshold_that_leaves_no_room_for_levels_is_refused():
    cfg = Gpfq(method="gpfq", bits=4, sparse={"l0": 3.0})
    with pytest.raises(ValueError, match="quantize.sparse.l0 is 3, but its largest level would be 2.3; use a smaller"):
        scales(np.float32([[1, 2], [2, 2]]), Alphabet.of(cfg), cfg)


def test_the_error_vanishes_with_bits_when_every_weight_is_within_reach():
    w, x, _ = layer()
    radius = np.abs(w).max(axis=1)
    errors = [quantized(w, x, x, (1.16 * radius / (2**b - 1)).astype(np.float32), Alphabet(2**b - 1))[1] for b in (3, 7, 14)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2] and errors[2] < 1e-4


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_correlated_inputs_lose_less_than_by_rounding_to_nearest(bits):
    w, x, xq = layer(neurons=32, features=64, rows=500)
    cfg = Gpfq(method="gpfq", bits=bits, radius="channel")
    alphabet = Alphabet.of(cfg)
    d = scales(w, alphabet, cfg)
    nearest = np.clip(np.floor(w / d[:, None] + 0.5), -alphabet.largest, alphabet.largest) * d[:, None]
    exact = x.astype(float) @ w.T
    for inputs in (x, xq):
        rounded = np.linalg.norm(exact - inputs.astype(float) @ nearest.T) / np.linalg.norm(exact)
        assert quantized(w, x, inputs, d, alphabet)[1] < rounded


def test_one_radius_for_rows_of_different_size_stops_helping_where_one_per_channel_goes_on():
    """Row scales spread over a factor of ten: the layer's radius clips the widest rows, whatever the bits."""
    rng = np.random.default_rng(0)
    w = (rng.normal(size=(64, 128)) * np.logspace(-0.5, 0.5, 64)[:, None]).astype(np.float32)
    x = rng.normal(size=(256, 128)).astype(np.float32)

    def error(bits, radius):
        cfg = Gpfq(method="gpfq", bits=bits, radius=radius, alphabet="study")
        return quantized(w, x, x, scales(w, Alphabet.of(cfg), cfg), Alphabet.of(cfg))[1]

    assert error(5, "layer") == pytest.approx(0.15, abs=0.05) and error(8, "layer") > 0.8 * error(5, "layer")
    assert error(8, "channel") < 0.01 and error(8, "channel") < error(5, "channel") / 5


@pytest.mark.parametrize("sparse", [{"l1": 0.15}, {"l0": 0.3}], ids=str)
def test_sparse_forms_leave_more_zeros(sparse):
    w, x, xq = layer()
    d = np.full(len(w), 0.3, np.float32)
    dense = quantized(w, x, xq, d, Alphabet(7))[0]
    (kind, threshold), = sparse.items()
    found = quantized(w, x, xq, d, Alphabet(7, **{"soft" if kind == "l1" else "hard": threshold}))[0]
    assert (found == 0).sum() > 1.5 * (dense == 0).sum()


def test_rows_of_zeros_stay_zeros():
    w, x, xq = layer()
    w[3] = 0
    cfg = Gpfq(method="gpfq", radius="channel")
    d = scales(w, Alphabet.of(cfg), cfg)
    codes, error = quantized(w, x, xq, d, Alphabet.of(cfg))
    assert d[3] == 1 and not codes[3].any() and np.isfinite(error)
