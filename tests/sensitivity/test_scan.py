from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scan_network import Shifted

from toolchain.errors import EngineError
from toolchain.sensitivity.scan import POINTS, measure, scan

RATIOS = (0.25, 0.5, 0.75)


def folder(place: Path, name: str) -> Path:
    (place / name).mkdir()
    return place / name


def test_processes_and_a_killed_run_change_nothing(tmp_path: Path) -> None:
    alone = scan(partial(Shifted, None), "weights", RATIOS, folder(tmp_path, "alone"), jobs=1)
    assert scan(partial(Shifted, None), "weights", RATIOS, folder(tmp_path, "two"), jobs=2) == alone

    stopped, calls = folder(tmp_path, "stopped"), tmp_path / "calls"
    lines = (tmp_path / "two" / POINTS).read_text().splitlines(keepends=True)
    (stopped / POINTS).write_text("".join(lines[:4]) + lines[4][:20])  # killed while it wrote the fifth
    assert scan(partial(Shifted, calls), "weights", RATIOS, stopped, jobs=1) == alone
    assert len(calls.read_text().splitlines()) == 9 - 4
    assert len((stopped / POINTS).read_text().splitlines()) == 9


def test_figures_of_a_point_are_those_of_its_logits(tmp_path: Path) -> None:
    network = Shifted(None)
    found = scan(lambda: network, "weights", RATIOS, tmp_path, jobs=1)
    harmed = network.logits + 0.75 * network.noise["c"]

    def probabilities(logits):
        shares = np.exp(logits.astype(np.float64))
        return shares / shares.sum(axis=1, keepdims=True)

    p, q = probabilities(network.logits), probabilities(harmed.astype(np.float32))
    top1, base = (100 * np.mean(x.argmax(axis=1) == network.labels) for x in (harmed, network.logits))
    point = found.layers[2].points[2]
    assert (found.images, found.baseline.top1_percent, point.ratio) == (40, base, 0.75)
    assert point.top1_percent == top1 and point.drop == base - top1 > 0
    assert point.kl_nats == pytest.approx((p * np.log(p / q)).sum(axis=1).mean())


def test_nothing_removed_is_exactly_the_baseline() -> None:
    network = Shifted(None)
    point = measure(network, "c", 0.0, network.baseline())
    assert point["kl_nats"] == 0 and point["top1_percent"] == 100 * np.mean(network.logits.argmax(axis=1) == network.labels)


def test_logits_that_are_not_finite_name_the_layer(tmp_path: Path) -> None:
    network = Shifted(None)
    network.noise["b"][0] = np.inf
    with pytest.raises(EngineError, match="layer b at 0.25: the logits are NaN or infinite"):
        scan(lambda: network, "weights", RATIOS, tmp_path, jobs=1)
    assert len((tmp_path / POINTS).read_text().splitlines()) == 3  # those of layer a are kept
