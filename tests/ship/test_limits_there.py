"""`toolchain ship` and the recipe's limits on devices: what broke them there, and what a bundle says of it."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
from bundles import RECORD, text
from said import call

from toolchain.cli import main
from toolchain.ship.device import facts

NAME = str(RECORD["name"])
BUNDLE = f"tiny.{NAME}.bundle"
HERE = "machine=x86_64 onnxruntime=1.31.1"
ORIN = {"name": "orin", "machine": "Orin", "engines": [{"name": "int8.tensorrt.local_gpu", "built": True},
                                                       {"name": "fp32.tensorrt.local_gpu", "built": True}]}


def judged_on_orin(run: Path, *engines: str, device: dict[str, object] = ORIN) -> Path:
    """The build, with a limit that each of these engines breaks there."""
    report = json.loads((run / "report.json").read_text()) | {"devices": [device]}
    report["limits"] += [{"engine": f"orin: {name}", "limit": "top1", "asked": 98.0, "found": 97.5, "held": False} for name in engines]
    (run / "report.json").write_bytes(text(report))
    published = json.loads((run / "published.json").read_text())
    (run / "published.json").write_bytes(text(published | {"report.json": hashlib.sha256(text(report)).hexdigest()}))
    return run


@pytest.fixture
def any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices of any name, which have what fits."""
    monkeypatch.setattr("toolchain.devices.named.facts", lambda word, devices=None: facts(HERE))


def test_an_engine_whose_precision_breaks_limits_on_the_device_is_not_shipped_to_it(
    run: Path, any_device: None, capsys: pytest.CaptureFixture[str]
) -> None:
    judged_on_orin(run, "int8.tensorrt.local_gpu")
    code, shown = call(capsys, "ship", run, "--engine", "int8", "--to", "orin")
    assert code == 10 and "orin: int8.tensorrt.local_gpu: top1: asked 98, found 97.5; ship it all the same with --anyway" in shown
    assert not (run / BUNDLE).exists()
    assert call(capsys, "ship", run, "--engine", "int8", "--to", "orin", "--anyway")[0] == 0


def test_limits_that_fail_on_another_device_are_told_and_stand_in_the_bundle(
    run: Path, any_device: None, capsys: pytest.CaptureFixture[str]
) -> None:
    judged_on_orin(run, "int8.tensorrt.local_gpu")
    broken = "orin: int8.tensorrt.local_gpu: top1: asked 98, found 97.5"
    for words in ((), ("--to", "nano")):
        with pytest.raises(SystemExit) as stop:
            main(["ship", str(run), "--engine", "int8", *words])
        assert not stop.value.code and f"limits were not held: {broken}" in capsys.readouterr().err
        assert json.loads(call(capsys, "verify", run / BUNDLE, "--json")[1])["limits_not_held"] == [broken]
    with zipfile.ZipFile(run / BUNDLE) as bundle:
        assert [limit["held"] for limit in json.loads(bundle.read("measured.json"))["limits"]] == [True, False]


def test_a_limit_that_could_be_judged_nowhere_yet_is_told_and_stops_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An engine for a GPU that is not here has to be shipped before it can be judged."""
    report = json.loads((run / "report.json").read_text())
    report["limits"].append({"engine": "int8", "limit": "speedup", "asked": 3.0, "found": None, "held": False, "reason": "no GPU"})
    (run / "report.json").write_bytes(text(report))
    published = json.loads((run / "published.json").read_text())
    (run / "published.json").write_bytes(text(published | {"report.json": hashlib.sha256(text(report)).hexdigest()}))
    with pytest.raises(SystemExit) as stop:
        main(["ship", str(run), "--engine", "int8"])
    assert not stop.value.code and "limits were not held: int8: speedup: asked 3, judged nowhere yet" in capsys.readouterr().err


def test_limits_that_other_precisions_or_namesakes_break_on_a_device_do_not_matter(run: Path, any_device: None, capsys: pytest.CaptureFixture[str]) -> None:
    there = {**ORIN, "engines": [*ORIN["engines"], {"name": NAME, "built": True}]}  # type: ignore[misc]
    judged_on_orin(run, "fp32.tensorrt.local_gpu", "int8.tensorrt.local_gpu", device=there)
    code, shown = call(capsys, "ship", run, "--engine", "int8", "--to", "orin")
    assert code == 0 and "limits were" not in shown  # this very engine was judged there, and holds them


def test_the_same_build_gives_the_same_bytes_wherever_it_is_to_go(run: Path, any_device: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judged_on_orin(run, "int8.tensorrt.local_gpu")
    for file, words in (("a", ()), ("b", ("--to", "here")), ("c", ("--to", "nano")), ("d", ("--to", "orin", "--anyway"))):
        assert call(capsys, "ship", run, "--engine", "int8", "-o", tmp_path / file, *words)[0] == 0
    assert len({(tmp_path / file).read_bytes() for file in "abcd"}) == 1
