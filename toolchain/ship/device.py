"""What a device has, as far as a bundle asks: its processor, the SM of its GPU, and its runtimes. A device that
devices.yaml names is asked over SSH."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from toolchain.engines.gpu import gpus
from toolchain.errors import RecipeError, nearest

HERE = "here"
DISTRIBUTIONS = {"onnxruntime": ("onnxruntime-gpu", "onnxruntime"), "tensorrt": ("tensorrt",),
                 "tensorrt_rtx": ("tensorrt-rtx",), "openvino": ("openvino",)}


def facts(word: str, devices: Path | None = None) -> dict[str, Any]:
    """{"machine", "sm", "runtimes": {name: version}} of `here`, of a device of the file `devices` (None: the usual
    one), or as written: "machine=aarch64 sm=87 tensorrt=10.3.0".

    Raises RecipeError for words that say no such thing, DeviceError where the device cannot be asked.
    """
    if word == HERE:
        found = {name: next(filter(None, map(_installed, packages)), None) for name, packages in DISTRIBUTIONS.items()}
        return {"machine": platform.machine(), "sm": max((gpu.sm for gpu in gpus()), default=None),
                "runtimes": {name: installed for name, installed in found.items() if installed}}
    if re.fullmatch(r"[\w.-]+", word):
        return _asked(word, devices)
    told = dict(part.partition("=")[::2] for part in re.split(r"[\s,]+", word.strip()))
    sm = told.pop("sm", "").removeprefix("sm") or None
    machine = told.pop("machine", None)
    wrong = [name for name, value in told.items() if name not in DISTRIBUTIONS or not re.match(r"\d+\.\d+", value)]
    if machine is None or wrong or (sm and not sm.isdecimal()):
        raise RecipeError(f"found the device '{word}', expected '{HERE}' or what it has, such as 'machine=aarch64 "
                          f"sm=87 tensorrt=10.3.0', with versions of {', '.join(DISTRIBUTIONS)}")
    return {"machine": machine, "sm": int(sm) if sm else None, "runtimes": told}


def _asked(name: str, devices: Path | None) -> dict[str, Any]:
    """Of the device called `name`, as its probe tells it."""
    from toolchain.devices.file import devices_file, load_devices
    from toolchain.devices.many import one
    from toolchain.devices.remote import ready

    file = devices_file(devices)
    known = load_devices(file)
    if name not in known:
        raise RecipeError(f"{file}: has no device '{name}'{nearest(name, known)}; expected '{HERE}', a device that is "
                          "listed there, or what it has, such as 'machine=aarch64 sm=87 tensorrt=10.3.0'")
    told = one(name, known[name], ready)
    return {field: told[field] for field in ("machine", "sm", "runtimes")}


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
