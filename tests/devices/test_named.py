"""A device of devices.yaml is asked what it has before a bundle is made for it, or held to fit it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bundles import tiny_run
from device_shop import command, listed
from live_bundle import live_bundle

from toolchain.devices.file import Device


def test_a_named_device_is_asked_whether_a_bundle_fits(shop: Path, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    listed(shop, orin=device)
    assert command("verify", live_bundle(shop / "a.bundle", "a"), "--for", "orin") == 0
    assert "orin: takes the engine" in capsys.readouterr().out
    assert command("verify", shop / "a.bundle", "--for", "orni") == 2
    assert "has no device 'orni', did you mean 'orin'?; expected 'here', a device" in capsys.readouterr().err


def test_a_bundle_is_refused_for_a_named_device_that_has_no_runtime_for_it(
    shop: Path, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_run(shop / "run")
    program = shop / "bare_python"
    told = {"machine": "aarch64", "sm": None, "runtimes": {}}
    program.write_text(f"#!/bin/sh\necho '{json.dumps(told)}'\n")
    program.chmod(0o755)
    listed(shop, bare=device.model_copy(update={"python": str(program)}))
    assert command("keys", "new", "mine") == 0
    assert command("ship", folder, "--engine", "int8", "--to", "bare") == 13
    assert "it runs in onnxruntime, which is not installed there; ship an engine built for it" in capsys.readouterr().err
