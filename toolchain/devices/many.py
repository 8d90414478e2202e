"""The same for many devices at once; one that fails does not stop the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar, cast

from toolchain.devices.file import Device
from toolchain.devices.transport import Link
from toolchain.errors import DeviceError, ToolchainError

T = TypeVar("T")


def each(devices: Mapping[str, Device], act: Callable[[Link], Awaitable[T]]) -> dict[str, T | ToolchainError]:
    """What `act` gives for each device, or the error that a user can mend, by name."""
    async def one(name: str) -> T | ToolchainError:
        try:
            async with Link(name, devices[name]) as link:
                return await act(link)
        except ToolchainError as error:
            return error

    async def all_() -> list[T | ToolchainError]:
        # return_exceptions: an interruption is over when every device has been told of it, not the first one
        found = await asyncio.gather(*map(one, devices), return_exceptions=True)
        for told in found:
            if isinstance(told, BaseException) and not isinstance(told, ToolchainError):
                raise told
        return cast("list[T | ToolchainError]", found)

    return dict(zip(devices, asyncio.run(all_()), strict=True))


def one(name: str, device: Device, act: Callable[[Link], Awaitable[T]]) -> T:
    """What `act` gives for one device. Raises its error."""
    found = each({name: device}, act)[name]
    if isinstance(found, ToolchainError):
        raise found
    return found


def refuse_failed(found: Mapping[str, object]) -> None:
    """Raise DeviceError naming every device that failed, with its reason."""
    failed = {name: error for name, error in found.items() if isinstance(error, ToolchainError)}
    if failed:
        told = [f"{name}: {str(error).removeprefix(f'{name}: ')}" for name, error in failed.items()]
        many = f"{len(failed)} of {len(found)} devices failed:\n  " if len(found) > 1 else ""
        raise DeviceError(many + "\n  ".join(told))
