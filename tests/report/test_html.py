"""report.html: self-contained, escaped, and drawn by a real browser where there is one."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from toolchain.report.html import render_html
from toolchain.report.schema import Report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--hide-scrollbars")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
SHEET = b"\x89PNG\r\n\x1a\n" + bytes(range(256))  # not a picture, but bytes are all that the page is given
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Outline(HTMLParser):
    """Collects tags, attributes and text, and checks that every element is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def browse(page: str, folder: Path, *flags: str) -> str:
    assert CHROMIUM is not None
    (folder / "report.html").write_text(page, encoding="utf-8")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, (folder / "report.html").as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def changed(report: Report, **parts: Any) -> Report:
    return Report.model_validate(report.model_dump() | parts)


def test_the_page_is_well_formed_and_loads_nothing(sample_report: Report):
    page = render_html(sample_report)
    outline = Outline(page)
    assert outline.open == []
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(outline.tags)
    assert not {"src", "href", "srcset", "action", "data", "xlink:href"} & {name for name, _ in outline.attributes}
    assert not re.search(r"https?:|url\(|@import|//", page)
    assert not [name for name, _ in outline.attributes if name.startswith("on")]
    assert "default-src 'none'" in page


def test_names_from_the_outside_stay_text(sample_report: Report):
    attack = '<script>alert("x")</script>'
    data = sample_report.data.model_dump() | {"name": attack, "classes": [attack, "'\"><img src=x onerror=alert(1)>"]}
    engines = [e.model_dump() | {"target": attack, "name": f"{e.name}{attack}", "path": attack, "compute": attack,
                                 "precision": f"{e.precision}{attack if i == 3 else ''}"}
               for i, e in enumerate(sample_report.engines)]
    report = changed(sample_report, data=data, engines=engines, recipe={"name": attack, attack: attack},
                     training=[{"title": attack, "epochs": [{"epoch": 1, "loss": 1.0}]}])
    outline = Outline(render_html(report))
    assert not {"script", "img"} & set(outline.tags)
    assert any(attack in text for text in outline.texts)


def test_the_picture_sheet_is_held_by_the_page_and_nothing_else_is_loaded(taught_report: Report):
    page = render_html(taught_report, SHEET)
    outline = Outline(page)
    sources = [value for name, value in outline.attributes if name == "src"]
    assert outline.open == [] and outline.tags.count("img") == 1
    assert sources == [f"data:image/png;base64,{base64.b64encode(SHEET).decode()}"]
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:\"" in page
    assert not {"href", "srcset", "action", "data", "xlink:href"} & {name for name, _ in outline.attributes}


def test_without_a_sheet_the_figures_stand_alone(taught_report: Report):
    outline = Outline(render_html(taught_report))
    assert outline.open == [] and "img" not in outline.tags and "figure" in outline.tags
    assert "Centred cosine" in outline.texts


def test_what_was_taught_is_told_only_where_it_was_compared(sample_report: Report, taught_report: Report):
    assert "What was taught" not in render_html(sample_report, SHEET)
    text = " ".join("".join(Outline(render_html(taught_report)).texts).split())
    for told in ("What was taught", "0.0123", "0.0101–0.0147", "98.89", "Grad-CAM", "0.753", "0.735 to 0.771", "above random",
                 "Colour jitter", "train (dkd)", "dkd 0.9 until epoch 2, then exactly 0"):
        assert told in text


def test_parts_that_were_not_asked_for_leave_no_table(taught_report: Report, fidelity: dict[str, Any]):
    report = changed(taught_report, fidelity=fidelity | {"jitter": None, "gradcam": None, "gradcam_reason": "no <gradients>"})
    text = "".join(Outline(render_html(report, SHEET)).texts)
    assert "No Grad-CAM maps: no <gradients>." in text and "Colour jitter" not in text and "Centred cosine" not in text


def test_what_was_compared_stays_text_too(taught_report: Report, fidelity: dict[str, Any]):
    attack = '<script>alert("x")</script>'
    fidelity["teacher"]["name"] = fidelity["engines"][0]["name"] = fidelity["jitter"]["engines"][0]["name"] = attack
    fidelity["gradcam"]["student_layer"] = attack
    fidelity["jitter"]["settings"] = {attack: 1}
    training = [{"title": "train", "taught": {"method": attack}, "epochs": [
        {"epoch": e, "loss": 1.0, "parts": {attack: 1.0, f"{attack}_weight": float(e)}} for e in (1, 2)]}]
    outline = Outline(render_html(changed(taught_report, fidelity=fidelity, training=training)))
    assert "script" not in outline.tags and sum(attack in text for text in outline.texts) > 6


def test_the_terms_of_the_loss_are_drawn_and_so_are_the_weights_that_change(taught_report: Report):
    labels = re.findall(r'aria-label="train \(dkd\): ([^"]+?) over', render_html(taught_report))
    assert labels == ["loss", "val top-1, %", "label loss", "dkd loss", "weight of labels", "weight of dkd"]


def test_drawings_and_bars_are_told_to_screen_readers(sample_report: Report):
    page = render_html(sample_report)
    labels = re.findall(r'<svg[^>]*role="img"[^>]*aria-label="([^"]+)"', page)
    assert len(labels) == 6  # the accuracy plot for a screen and a phone, loss and val top-1 of two runs
    assert "int8.onnxruntime.cpu_x86: top-1 98.33 %" in labels[0]
    assert page.count("<title>") == 1 + 2 * 8 + 2 * 12 + 2 * 2  # page, points of both plots, dots of four curves


def test_both_themes_and_the_phone_are_there(sample_report: Report):
    page = render_html(sample_report)
    assert "prefers-color-scheme: dark" in page and "max-width: 640px" in page and 'name="viewport"' in page


def test_verdicts_and_reasons_are_shown(sample_report: Report):
    text = " ".join("".join(Outline(render_html(sample_report)).texts).split())
    assert "int4.onnxruntime.cpu_x86: weight_bytes: found 0.1581 of FP32, asked at most 0.15 of FP32" in text
    assert text.count("not measured: no GPU") == 5
    assert "16 of 19" in text and "3 broken, 9 not checked here" in text


def test_a_build_where_nothing_ran_still_makes_a_page(sample_report: Report):
    report = changed(sample_report, engines=[e.model_dump() for e in sample_report.engines if not e.measured], training=[],
                     limits=[], stages=[])
    page = render_html(report)
    assert Outline(page).open == [] and "No engine could be timed here." in page and "plot wide" not in page


@needs_browser
def test_chromium_renders_the_page_and_shows_its_figures(sample_report: Report, tmp_path: Path):
    dom = browse(render_html(sample_report), tmp_path, "--dump-dom")
    assert "<h1>vgg11_int8</h1>" in dom and dom.count("<svg") == 8 and "6.62×" in dom


@needs_browser
def test_chromium_shows_the_sheet_under_the_pages_own_policy(taught_report: Report, tmp_path: Path):
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (680, 2000), (255, 0, 255)).save(picture, "PNG")
    browse(render_html(taught_report, picture.getvalue()), tmp_path, "--window-size=1200,7000", f"--screenshot={tmp_path / 'page.png'}")
    seen = dict((colour, count) for count, colour in Image.open(tmp_path / "page.png").convert("RGB").getcolors(1 << 24))
    assert seen.get((255, 0, 255), 0) > 0.99 * 680 * 2000  # whole and in its own size, but for the rounded corners


@needs_browser
@pytest.mark.parametrize("width", [1200, 500])
def test_chromium_paints_the_page_without_a_sideways_scroll(taught_report: Report, tmp_path: Path, width: int):
    probe = "<script>document.title='wide by '+(document.documentElement.scrollWidth-innerWidth)</script></body>"
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", render_html(taught_report)).replace("</body>", probe)
    dom = browse(page, tmp_path, f"--window-size={width},1600", "--dump-dom")
    assert "<title>wide by 0</title>" in dom


@needs_browser
def test_dark_and_light_are_painted_differently(sample_report: Report, tmp_path: Path):
    from PIL import Image

    page, corners = render_html(sample_report), []
    for scheme in (0, 1):
        browse(page, tmp_path, "--window-size=800,600", f"--blink-settings=preferredColorScheme={scheme}",
               f"--screenshot={tmp_path / f'{scheme}.png'}")
        corners.append(Image.open(tmp_path / f"{scheme}.png").convert("RGB").getpixel((5, 5)))
    assert corners == [(0x0d, 0x10, 0x16), (0xf5, 0xf6, 0xf8)]  # --page of the two themes
