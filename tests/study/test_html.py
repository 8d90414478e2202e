"""study.html as a browser lays it out."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from toolchain.study.figures import METRICS
from toolchain.study.html import render_html
from toolchain.study.result import Difference, Figure, RowResult, StudyResult

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SEVEN = ["top1", "int8_top1", "kl", "js", "agreement", "gradcam", "jitter_top1"]


def row(name: str, control: bool) -> RowResult:
    figure = Figure(values={0: 85.0, 1: 84.0, 2: 86.0}, n=3, mean=85.05, std=8.12, low=60.12, high=98.11)
    difference = Difference(n=3, mean=24.98, std=8.0, low=-3.1, high=53.06, images_low=21.1, images_high=28.2, verdict="no difference")
    return RowResult(
        name=name, recipe="r.yaml", set=[], engine="fp32.onnxruntime.cpu_x86", epochs={0: 4}, budget_differs=False, split_differs=False,
        figures=dict.fromkeys(SEVEN, figure), versus_control={} if control else dict.fromkeys(SEVEN, difference), failures=[])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_seven_metrics_fit_on_a_page_of_1200_pixels(tmp_path: Path) -> None:
    result = StudyResult(name="s", control="independent", seeds=[0, 1, 2], set=[], metrics=SEVEN, runs=6, runs_done=6, test_images=360,
                         rows=[row("independent", True), row("attention_transfer", False)])
    assert set(SEVEN) <= set(METRICS)
    probe = ("<script>document.title='cut '+[...document.querySelectorAll('.scroll')].filter(e=>e.scrollWidth>e.clientWidth).length"
             "</script></body>")
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", render_html(result)).replace("</body>", probe)
    (tmp_path / "study.html").write_text(page)
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}",
               "--window-size=1200,1600", "--dump-dom", (tmp_path / "study.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "<title>cut 0</title>" in done.stdout, done.stdout[:500] + done.stderr[-500:]
