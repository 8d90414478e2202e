"""report.md."""

from __future__ import annotations

import re

from toolchain.report.markdown import code, escape, render_markdown
from toolchain.report.schema import Report


def test_every_row_of_a_table_has_as_many_cells_as_its_head(sample_report: Report):
    for block in re.findall(r"(?:^\|.*\|$\n?)+", render_markdown(sample_report), flags=re.M):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in block.strip().splitlines()}) == 1


def test_what_the_result_rests_on_is_all_there(sample_report: Report):
    text = render_markdown(sample_report)
    for fact in ("INT8 on ONNX Runtime is 6.62×", "*not measured: no GPU*", "5f2c9a3d7be14806", "512 images from",
                 "## Stages", "## Environment", "AMD EPYC 9R14", "## How this was measured", "onnxruntime-gpu 1.31.1",
                 "❌ int8.openvino.cpu\\_x86: top1\\_drop: found 0.55 points, asked at most 0.5 points", "✅ 6.62×, asked at least 3×"):
        assert fact in text


def test_names_can_neither_break_a_table_nor_bring_html():
    assert escape("<script>|a_b*") == "&lt;script&gt;\\|a\\_b\\*"
    assert code("a|b`c\nd") == "`a¦b'c d`"
