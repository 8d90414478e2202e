import json
from pathlib import Path

import pytest

from toolchain.errors import RecipeError
from toolchain.sensitivity.console_table import print_scans
from toolchain.sensitivity.file import Baseline, LayerScan, Point, Sensitivity, read_sensitivity, write_sensitivity
from toolchain.sensitivity.html import render_html
from toolchain.sensitivity.markdown import render_markdown
from toolchain.sensitivity.options import read_kinds, read_scan


def found(name: str = "conv", kind: str = "weights") -> Sensitivity:
    def points(drop: float) -> list[Point]:
        settings = [{"precision": "int8"}] if kind == "quantize" else [{"ratio": 0.3}, {"ratio": 0.5}]
        return [Point(**each, top1_percent=90 - drop * n, drop=drop * n, kl_nats=0.01) for n, each in enumerate(settings, 1)]

    return Sensitivity(kind=kind, images=20, baseline=Baseline(top1_percent=90), layers=[
        LayerScan(name=name, parameters=10, macs=None, points=points(2.0)), LayerScan(name="head", parameters=5, macs=7, points=points(-1.0))])


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_sensitivity(tmp_path / "s.json", found())
    again = read_sensitivity(tmp_path / "s.json", "weights")
    assert again == found() and again.curves() == {"conv": ((0.3, 2.0), (0.5, 4.0)), "head": ((0.3, -1.0), (0.5, -2.0))}
    assert json.loads((tmp_path / "s.json").read_text())["layers"][0]["points"][0] == {
        "ratio": 0.3, "top1_percent": 88.0, "drop": 2.0, "kl_nats": 0.01}


@pytest.mark.parametrize(("change", "message"), [
    (lambda c: c["layers"][1]["points"][0].pop("drop"), r"s.json: layers.1.points.0.drop: Field required; expected what"),
    (lambda c: c["layers"][0]["points"][0].update(ratio=1.5), r"layers.0.points.0.ratio: .* less than 1"),
    (lambda c: c["layers"][0]["points"][0].update(ratio=0.9), r"layer conv: expected rising ratios, found \[0.9, 0.5\]"),
    (lambda c: c["layers"][0]["points"][0].update(precision="int8"), r"layer conv: kind weights wants points with a ratio"),
    (lambda c: c.update(schema_version=2), r"schema_version: Input should be 1"),
    (lambda c: c.update(kind="channels"), r"kind: found a scan of channels, expected one of weights; .* --of weights"),
])
def test_a_file_that_is_not_a_scan_is_refused_by_field(tmp_path: Path, change, message: str) -> None:
    content = json.loads(found().model_dump_json(exclude_none=True))
    change(content)
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(RecipeError, match=message):
        read_sensitivity(tmp_path / "s.json", "weights")
    (tmp_path / "s.json").write_text("{")
    with pytest.raises(RecipeError, match="cannot be read as a sensitivity scan"):
        read_sensitivity(tmp_path / "s.json", "weights")


@pytest.mark.parametrize("kind", ["weights", "channels", "quantize"])
def test_names_are_text_on_every_page(kind, capsys) -> None:
    scans, files = {kind: found("<b>|x[red]", kind)}, {kind: "build/x/s.json"}
    page = render_html("<i>", scans, files)
    assert "<b>" not in page and "<i>" not in page and "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert "&lt;b&gt;|x[red]" in page and ("<svg" in page) == (kind != "quantize")
    told = render_markdown("<i>", scans, files)
    assert "`<b>¦x[red]`" in told and "# Sensitivity of &lt;i&gt;" in told
    print_scans(scans, files)
    assert "<b>|x[red]" in capsys.readouterr().out


def test_lists_on_the_command_line_are_checked() -> None:
    assert read_kinds(None) == () and read_kinds("quantize, weights") == ("weights", "quantize")
    assert read_scan("0.25,0.5", None).ratios == (0.25, 0.5) and read_scan(None, 7).images == 7
    with pytest.raises(RecipeError, match="--of wieghts: found 'wieghts', .* did you mean 'weights'?"):
        read_kinds("wieghts")
    for wrong in ("0.5,0.25", "0.5,1.5", "half", "0,0.5"):
        with pytest.raises(RecipeError, match=f"--ratios {wrong}: .*as in --ratios 0.25,0.5,0.75"):
            read_scan(wrong, None)
