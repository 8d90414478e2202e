"""What a device has, as far as a bundle asks, for who names it: as devices.yaml does, or by what it has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from toolchain.devices.file import devices_file, load_devices
from toolchain.errors import RecipeError, nearest
from toolchain.ship import device

NAME = re.compile(r"[\w.-]+")


def facts(word: str, devices: Path | None = None) -> dict[str, Any]:
    """{"machine", "sm", "runtimes"} of `here`, of a device of the file `devices` (None: the usual one), which is asked
    over SSH, or as written. Raises RecipeError, DeviceError.
    """
    if word == device.HERE or not NAME.fullmatch(word):
        return device.facts(word)
    file = devices_file(devices)
    known = load_devices(file)
    if word not in known:
        raise RecipeError(f"{file}: has no device '{word}'{nearest(word, known)}; expected '{device.HERE}', a device "
                          "that is listed there, or what it has, such as 'machine=aarch64 sm=87 tensorrt=10.3.0'")
    from toolchain.devices.many import one
    from toolchain.devices.remote import ready

    told = one(word, known[word], ready)
    return {field: told[field] for field in ("machine", "sm", "runtimes")}
