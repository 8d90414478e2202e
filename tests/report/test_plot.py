"""Ticks, marks and labels of the plots."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.report import plot
from toolchain.report.labels import Box, place

FRAME = Box(0, 0, 1000, 470)


def point(label: str = "INT8", p50: float = 1.0, top1: float = 98.0, weights: float = 9e6, **more: Any) -> plot.Point:
    facts = {"label": label, "title": label, "precision": "int8", "runtime": "onnxruntime", "p50_ms": p50,
             "late_ms": p50 * 1.2, "top1": top1, "low": top1 - 1, "high": min(top1 + 1, 100.0), "weight_bytes": weights}
    return plot.Point(**(facts | more))  # type: ignore[arg-type]


def test_linear_ticks_are_round_and_inside():
    assert plot.linear_ticks(95.1, 99.8) == [96, 97, 98, 99]
    assert plot.linear_ticks(0, 2.31, 5) == [0, 0.5, 1, 1.5, 2]
    assert plot.linear_ticks(5, 5) == [5]


def test_log_ticks_are_one_two_five():
    assert plot.log_ticks(0.8, 12) == [1, 2, 5, 10]
    assert plot.log_ticks(0.003, 4000, most=7) == [0.01, 0.1, 1, 10, 100, 1000]


def test_the_frame_maps_its_corners():
    frame = plot.Frame(10, 20, 110, 220, 0, 1, 90, 100)
    assert (frame.x(0), frame.x(1), frame.y(90), frame.y(100)) == (10, 110, 220, 20)


@pytest.mark.parametrize("kind", ["circle", "square", "diamond", "triangle"])
def test_marks_of_every_shape_have_the_area_asked_for(kind: str):
    element = ElementTree.fromstring(plot.shape(kind, 100, 100, 400, "mark"))
    if kind == "circle":
        area = math.pi * float(element.attrib["r"]) ** 2
    elif kind == "square":
        area = float(element.attrib["width"]) * float(element.attrib["height"])
    else:
        xy = [tuple(map(float, pair.split(","))) for pair in element.attrib["points"].split()]
        area = abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(xy, xy[1:] + xy[:1], strict=True))) / 2  # shoelace
    assert area == pytest.approx(400, rel=0.02)


def test_mark_areas_are_proportional_to_weight_bytes():
    text = plot.accuracy_plot([point(weights=40e6), point("FP16", p50=9, weights=20e6)], 1000, 470)
    big, small = (float(r) for r in re.findall(r'class="mark"[^>]* r="([\d.]+)"', text))
    assert big**2 / small**2 == pytest.approx(2, rel=0.03)


def test_names_in_a_plot_are_escaped():
    text = plot.accuracy_plot([point("<script>", title='"><script>')], 1000, 470)
    assert "<script" not in text
    ElementTree.fromstring(text)


@pytest.mark.parametrize("odd", [{"low": None, "high": None}, {"late_ms": None}, {"top1": 100.0}, {"top1": 0.0, "low": 0.0},
                                 {"weight_bytes": 0}])
def test_a_single_engine_with_gaps_still_draws(odd: dict[str, Any]):
    text = plot.accuracy_plot([point(**odd)], 380, 400)
    assert "nan" not in text and "inf" not in text
    ElementTree.fromstring(text)


def test_a_curve_of_one_epoch_is_a_dot_and_of_none_is_nothing():
    assert plot.curve([(1, 0.5)], "loss").count("<circle") == 1
    assert plot.curve([(1, None), (2, None)], "loss") == ""


def test_an_epoch_without_a_value_leaves_no_dot():
    assert plot.curve([(1, 2.0), (2, None), (3, 1.0)], "loss").count("<circle") == 2


def test_a_label_goes_to_the_right_of_its_mark_when_nothing_is_in_the_way():
    (spot,) = place(["INT8"], [(300, 200)], [10], [Box(290, 190, 310, 210)], [], FRAME)
    assert (spot.anchor, spot.x, spot.leader) == ("start", 314, None)  # radius 10 and a gap of 4


def test_a_label_at_the_right_edge_turns_inwards():
    (spot,) = place(["INT8 OpenVINO"], [(985, 200)], [10], [Box(975, 190, 995, 210)], [], FRAME)
    assert spot.box.right <= FRAME.right


@given(st.lists(st.tuples(st.integers(120, 880), st.integers(60, 410)), min_size=2, max_size=9))
def test_labels_never_cover_one_another_even_on_one_spot(centres: list[tuple[int, int]]):
    spots = place(["FP16 OpenVINO"] * len(centres), centres, [12] * len(centres),
                  [Box(x - 12, y - 12, x + 12, y + 12) for x, y in centres], [], FRAME)
    boxes = [spot.box for spot in spots]
    assert all(a.overlap(b) == 0 for i, a in enumerate(boxes) for b in boxes[i + 1:])
    assert all(box.outside(FRAME) == 0 for box in boxes)
