"""Files in which the kernel tells one thing each; nothing where there is no such file, or it may not be read."""

from __future__ import annotations

from pathlib import Path


def text(path: Path) -> str:
    """What the file says, without the line's end; "" where it says nothing."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def number(path: Path) -> float | None:
    """The number in the file."""
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None
