"""The runner's files on a device: whatever became of them, what runs is what was sent."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ssh_line import Line

from toolchain.devices import code, remote
from toolchain.devices.file import Device
from toolchain.devices.transport import Link
from toolchain.errors import DeviceError


def asked(device: Device, times: int = 1) -> list[dict[str, Any]]:
    async def act() -> list[dict[str, Any]]:
        async with Link("orin", device) as link:
            return await asyncio.gather(*(remote.ready(link) for _ in range(times)))

    return asyncio.run(act())


def runner(device: Device) -> Path:
    (folder,) = (Path(device.folder) / "code").iterdir()  # nothing but the runner is left there
    return folder


def emptied(folder: Path) -> None:
    (folder / "runner" / "commands.py").write_bytes(b"")


def shadowed(folder: Path) -> None:
    (folder / "argparse.py").write_text("raise SystemExit('not ours')")


def linked(folder: Path) -> None:
    shutil.move(folder / "runner", folder / "elsewhere")
    (folder / "runner").symlink_to("elsewhere")


DAMAGES: list[Callable[[Path], object]] = [
    emptied, shadowed, linked, lambda folder: (folder / "run.py").unlink(), lambda folder: (folder / "numpy").mkdir(),
    lambda folder: (folder / "run.py").write_text("print('{}')"), lambda folder: shutil.rmtree(folder / "runner")]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_runner_that_is_not_as_it_was_sent_is_sent_again_and_not_run(damage: Callable[[Path], object], device: Device) -> None:
    before = asked(device)
    whole = {path.name: path.read_bytes() for path in runner(device).rglob("*.py")}
    damage(runner(device))
    assert [one["python"] for one in asked(device)] == [before[0]["python"]]
    assert {path.name: path.read_bytes() for path in runner(device).rglob("*.py")} == whole


def test_a_runner_that_is_whole_is_not_sent_again(line: Line, device: Device) -> None:
    asked(device)
    first = runner(device).stat().st_ino
    before = line.sent
    asked(device)
    assert runner(device).stat().st_ino == first and line.sent - before < 20_000


def test_several_commands_that_find_no_runner_put_one_there(device: Device) -> None:
    assert len(asked(device, times=4)) == 4 and runner(device)


def test_modules_in_the_home_folder_are_not_taken_for_pythons(device: Device, tmp_path: Path) -> None:
    program = tmp_path / "in_a_folder_with_modules"
    (tmp_path / "runpy.py").write_text("raise SystemExit('not ours')")
    (tmp_path / "numpy.py").write_text("raise SystemExit('not ours')")
    program.write_text(f'#!/bin/sh\ncd {tmp_path}\nexec {device.python} "$@"\n')
    program.chmod(0o755)
    assert asked(device.model_copy(update={"python": str(program)}))[0]["numpy"]


def test_files_that_never_arrive_whole_are_given_up_in_words(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    code.digest()
    monkeypatch.setattr(code, "_files", lambda: {"run.py": b"print('{}')"})
    with pytest.raises(DeviceError, match="orin: the runner does not lie in .*ours/code as it was sent, 3 times; is that disk sound"):
        asked(device)


def test_a_line_cut_while_an_altered_runner_is_replaced_loses_nothing(line: Line, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(device)
    emptied(runner(device))
    line.cut_at = [line.sent + 60_000, line.sent + 160_000]
    assert asked(device)[0]["python"]
    assert line.connections > 2 and (runner(device) / "runner" / "commands.py").stat().st_size


def test_waiting_is_told_at_once_and_again(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    asked(device)
    told: list[str] = []
    handle = os.open(Path(device.folder) / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)

    def log(text: str) -> None:
        told.append(text)
        if len(told) == 3:
            os.close(handle)

    monkeypatch.setattr(remote, "log", log)
    monkeypatch.setattr(remote, "FIRST_S", 0.02)
    monkeypatch.setattr(remote, "LINE_EVERY_S", 0.02)

    async def act() -> None:
        async with Link("orin", device) as link:
            await remote.ask(link, "rollback")

    with pytest.raises(DeviceError, match="no bundle is in use on this device"):
        asyncio.run(act())
    assert all(one.startswith("  orin: waiting for another bundle to be installed") for one in told[:3])
