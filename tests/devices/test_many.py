"""What is done for many devices at once: one that fails stops no other, and an interruption reaches them all."""

from __future__ import annotations

import asyncio
import signal

import pytest
from device_shop import Near

from toolchain.devices import bench, many
from toolchain.devices.file import Device
from toolchain.errors import DeviceError

DEVICES = {name: Device(host=name) for name in ("orin", "nano", "xavier")}


@pytest.fixture(autouse=True)
def near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "Link", Near)


def test_an_interrupted_bench_is_stopped_on_every_device_and_told_of_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = []

    async def ask(link: Near, word: str, name: str) -> None:
        for _ in range(3 * list(DEVICES).index(link.name)):  # one after the other
            await asyncio.sleep(0)
        stopped.append((link.name, word, name))

    async def act(link: Near) -> None:
        if link.name == "xavier":
            signal.raise_signal(signal.SIGINT)
        try:
            await asyncio.Event().wait()
        except BaseException:
            await bench._stopped(link, "job", interrupted=True)  # type: ignore[arg-type]
            raise

    monkeypatch.setattr(bench, "ask", ask)
    with pytest.raises(KeyboardInterrupt):
        many.each(DEVICES, act)
    assert stopped == [(name, "stop", "job") for name in DEVICES]
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == list(DEVICES)


def test_an_error_of_ours_is_raised_after_all_and_a_device_that_fails_is_given_back() -> None:
    done = []

    async def act(link: Near) -> str:
        if link.name == "orin":
            raise DeviceError("orin: is full")
        if link.name == "nano" and fail:
            raise ZeroDivisionError
        done.append(link.name)
        return "well"

    fail = False
    found = many.each(DEVICES, act)
    assert isinstance(found["orin"], DeviceError) and [found["nano"], found["xavier"]] == ["well", "well"]
    fail = True
    with pytest.raises(ZeroDivisionError):
        many.each(DEVICES, act)
    assert done[2:] == ["xavier"]
