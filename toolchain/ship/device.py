"""What a device has, as far as a bundle asks: its processor, the SM of its GPU, and its runtimes."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from toolchain.engines.gpu import gpus
from toolchain.errors import RecipeError

HERE = "here"
DISTRIBUTIONS = {"onnxruntime": ("onnxruntime-gpu", "onnxruntime"), "tensorrt": ("tensorrt",),
                 "tensorrt_rtx": ("tensorrt-rtx",), "openvino": ("openvino",)}


def facts(word: str) -> dict[str, Any]:
    """{"machine", "sm", "runtimes": {name: version}} of `here`, or as written: "machine=aarch64 sm=87 tensorrt=10.3.0".

    Raises RecipeError for words that say no such thing.
    """
    if word == HERE:
        found = {name: next(filter(None, map(_installed, packages)), None) for name, packages in DISTRIBUTIONS.items()}
        return {"machine": platform.machine(), "sm": max((gpu.sm for gpu in gpus()), default=None),
                "runtimes": {name: installed for name, installed in found.items() if installed}}
    told = dict(part.partition("=")[::2] for part in re.split(r"[\s,]+", word.strip()))
    sm = told.pop("sm", "").removeprefix("sm") or None
    machine = told.pop("machine", None)
    wrong = [name for name, value in told.items() if name not in DISTRIBUTIONS or not re.match(r"\d+\.\d+", value)]
    if machine is None or wrong or (sm and not sm.isdecimal()):
        raise RecipeError(f"found the device '{word}', expected '{HERE}' or what it has, such as 'machine=aarch64 "
                          f"sm=87 tensorrt=10.3.0', with versions of {', '.join(DISTRIBUTIONS)}")
    return {"machine": machine, "sm": int(sm) if sm else None, "runtimes": told}


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
