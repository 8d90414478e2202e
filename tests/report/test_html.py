"""report.html: self-contained, escaped, and drawn by a real browser where there is one."""

from __future__ import annotations

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
@pytest.mark.parametrize("width", [1200, 500])
def test_chromium_paints_the_page_without_a_sideways_scroll(sample_report: Report, tmp_path: Path, width: int):
    probe = "<script>document.title='wide by '+(document.documentElement.scrollWidth-innerWidth)</script></body>"
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", render_html(sample_report)).replace("</body>", probe)
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
