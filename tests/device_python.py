"""A Python as a device has it: numpy and onnxruntime, and neither torch nor this project; and Pythons of other versions."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def device_python(folder: Path, packages: tuple[str, ...] = ("numpy", "onnxruntime")) -> str:
    """The program of a new virtual environment in `folder` that sees these packages of ours alone; no network."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    seen = folder / "seen"
    seen.mkdir()
    for package in packages:
        found = importlib.util.find_spec(package)
        assert found and found.origin
        place = Path(found.origin).parent
        for one in (place, place.with_name(f"{package}.libs")):
            if one.is_dir():
                (seen / one.name).symlink_to(one)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "seen.pth").write_text(f"{seen}\n")
    return str(folder / "bin" / "python")


def interpreter(version: str) -> str:
    """A Python of this version on this machine; skips where there is none."""
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    asked = [str(found[-1])] if found else [name for name in [shutil.which(f"python{version}")] if name]
    for program in asked:
        told = subprocess.run([program, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True)
        if told.stdout.strip() == version:
            return program
    pytest.skip(f"no Python {version} here")
