"""A Python as a device has it: numpy and onnxruntime, and neither torch nor this project."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path


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
