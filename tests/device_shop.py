"""What tests of deployment say on the command line, and look up on the device afterwards."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from toolchain.cli import main
from toolchain.devices.file import Device


def listed(shop: Path, **devices: Device) -> None:
    (shop / "devices.yaml").write_text(yaml.safe_dump({name: one.model_dump(exclude_none=True) for name, one in devices.items()}))


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def deployed(device: Device, capsys: pytest.CaptureFixture[str]) -> tuple[str | None, dict[str, str]]:
    """The slot in use there, and the bundle in each slot that has one."""
    capsys.readouterr()
    assert command("device", "probe", "orin", "--json") == 0
    told = json.loads(capsys.readouterr().out)["orin"]["deployed"]
    return told["current"], {slot: one["bundle"] for slot, one in told["slots"].items() if one}


class Near:
    """Instead of a line to a device."""

    def __init__(self, name: str, device: Device) -> None:
        self.name = name

    async def __aenter__(self) -> Near:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


def small_disk(folder: Path, megabytes: int) -> Path:
    """`folder` on a disk of its own, until `unmounted`. Skips where that cannot be."""
    folder.mkdir()
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)],
                                          capture_output=True).returncode:
        pytest.skip("a small disk can be made by root alone (mount -t tmpfs)")
    return folder


def unmounted(folder: Path) -> None:
    """Take the disk away again."""
    subprocess.run(["umount", "-l", str(folder)], check=True)
