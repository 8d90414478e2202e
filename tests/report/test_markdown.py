"""report.md."""

from __future__ import annotations

import re
from typing import Any

import pytest

from toolchain.report.markdown import code, escape, render_markdown
from toolchain.report.schema import Report


@pytest.mark.parametrize("name", ["sample_report", "taught_report"])
def test_every_row_of_a_table_has_as_many_cells_as_its_head(name: str, request: pytest.FixtureRequest):
    for block in re.findall(r"(?:^\|.*\|$\n?)+", render_markdown(request.getfixturevalue(name)), flags=re.M):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in block.strip().splitlines()}) == 1


def test_what_the_result_rests_on_is_all_there(sample_report: Report):
    text = render_markdown(sample_report)
    for fact in ("INT8 on ONNX Runtime is 6.62×", "*not measured: no GPU*", "5f2c9a3d7be14806", "512 images from",
                 "## Stages", "## Environment", "AMD EPYC 9R14", "## How this was measured", "onnxruntime-gpu 1.31.1",
                 "❌ int8.openvino.cpu\\_x86: top1\\_drop: found 0.55 points, asked at most 0.5 points", "✅ 6.62×, asked at least 3×"):
        assert fact in text


def test_what_was_taught_stands_in_tables_and_the_sheet_is_linked_by_name(taught_report: Report):
    text = render_markdown(taught_report)
    for line in (
            "## What was taught",
            "| `teacher` | 99.17 (97.6–99.7) | – | – | – | – |",
            "| `fp32.onnxruntime.cpu_x86` | 98.61 | 0.0123 (0.0101–0.0147) | 0.0123 | 0.0032 | 98.89 (97.8–99.7) |",
            "| Cosine | 0.753 (0.735 to 0.771) | 0.611 | – | above random |",
            "| Centred cosine | −0.021 (−0.061 to 0.018) | 0.011 | – | no difference |",
            "| Zero maps | 1.1 % | 7.2 % | 0.3 % |  |",
            "](gradcam.png)",
            "| `teacher` | 99.17 | 95.00 | 4.17 | – |",
            "| `int8.onnxruntime.cpu_x86` | 98.33 | 98.06 | 0.28 (−0.56 to 1.11) | no difference |",
            "| train (dkd) | 4 |",
            "- train (dkd): Weights in the loss: labels 0.1 until epoch 2, then 1; dkd 0.9 until epoch 2, then exactly 0."):
        assert line in text


def test_a_build_that_compared_nothing_has_no_such_section(sample_report: Report, taught_report: Report, fidelity: dict[str, Any]):
    assert "taught" not in render_markdown(sample_report)
    bare = fidelity | {"jitter": None, "gradcam": None, "gradcam_reason": "an ONNX file has no <gradients>"}
    text = render_markdown(Report.model_validate(taught_report.model_dump() | {"fidelity": bare}))
    assert "No Grad-CAM maps: an ONNX file has no &lt;gradients&gt;." in text
    assert "jitter" not in text and "gradcam.png" not in text


def test_names_can_neither_break_a_table_nor_bring_html():
    assert escape("<script>|a_b*") == "&lt;script&gt;\\|a\\_b\\*"
    assert code("a|b`c\nd") == "`a¦b'c d`"
