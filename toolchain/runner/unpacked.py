"""A bundle unpacked in a folder, a slot or another: its engine, its files as they were signed, its golden answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .answers import Failed
from .bundle import MANIFEST
from .contents import GOLDEN, GOLDEN_IMAGES, GOLDEN_LOGITS, MACHINES, PORTABLE, PREPROCESS, fitting, makers
from .making import RECORD
from .place import sha256_file
from .probe import device
from .trust import Refused, strict_json

INSTALLED, BUILT = "installed.json", "built"
SHOWN = ("bundle", "engine", "runtime", "takes", "manifest_sha256", "limits_not_held")  # of installed.json


def installed(folder: Path) -> dict[str, Any] | None:
    """installed.json of a slot; None where the slot is empty."""
    try:
        facts = strict_json((folder / INSTALLED).read_bytes(), str(folder / INSTALLED))
    except (OSError, Refused):
        return None
    return facts if {*SHOWN, "golden"} <= set(facts) else None


def engine_of(folder: Path) -> tuple[dict[str, Any], Path]:
    """{"name", "runtime", "target", …} and the file of the engine to run, whose digest is what it was.

    folder: of a slot, or a bundle that somebody unpacked. Raises Failed.
    """
    manifest, facts = manifest_of(folder), installed(folder)
    record = manifest["engine"]
    takes = facts["takes"] if facts else fitting(manifest, device())
    if takes == "portable":
        record = _json(folder / BUILT, RECORD) if facts else own_engine(manifest, device())
        path = folder / BUILT / str(record.get("engine")) if facts else folder / PORTABLE
        expected = record.get("sha256") if facts else manifest["files"][PORTABLE]["sha256"]
        if not facts and record["runtime"] == "tensorrt":
            raise Failed(f"{folder}: its engine has to be built on this device; install the bundle first: "
                         "run.py install BUNDLE")
    else:
        path, expected = folder / record["file"], manifest["files"][record["file"]]["sha256"]
    if not path.is_file() or sha256_file(path) != expected:
        raise Failed(f"{path}: is not the engine that was installed; it was altered: install the bundle again")
    return record, path


def replay(folder: Path) -> dict[str, Any]:
    """Golden answers once more, from the engine in `folder`: see `opened.replayed`. Raises Failed.

    Where a bundle has none the engine is opened and run once, and "images" is 0.
    """
    import numpy as np

    from .images import normalize
    from .opened import open_engine, replayed

    engine, path = engine_of(folder)
    preprocess = checked_json(folder, PREPROCESS)
    with open_engine(engine, path, threads=1) as opened:
        if GOLDEN not in manifest_of(folder)["files"]:
            opened.infer(opened.noise(1, 0, preprocess["image_size"]))
            return {"images": 0, "distance": None, "tolerance": None, "same_answers": None, "held": True}
        facts, size = checked_json(folder, GOLDEN), preprocess["image_size"]
        images = np.frombuffer(checked_bytes(folder, GOLDEN_IMAGES), np.uint8).reshape(-1, size, size, 3)
        expected = np.frombuffer(checked_bytes(folder, GOLDEN_LOGITS), "<f4").reshape(len(images), -1)
        return replayed(opened.infer(normalize(images, preprocess)), expected, float(facts["tolerance"]))


def manifest_of(folder: Path) -> dict[str, Any]:
    """manifest.json of an unpacked bundle; in a slot, the one that was verified. Raises Failed."""
    facts = installed(folder)
    if facts:
        _check(folder, MANIFEST, {"sha256": facts["manifest_sha256"]})
    return _json(folder, MANIFEST)


def whole(folder: Path) -> None:
    """Raise Failed unless every file of a slot is as it was signed, run.py and runner/ too, or built here."""
    engine_of(folder)
    for name, listed in manifest_of(folder)["files"].items():
        _check(folder, name, listed)


def checked_bytes(folder: Path, name: str) -> bytes:
    """A file of an unpacked bundle, as it was signed. Raises Failed."""
    _check(folder, name, manifest_of(folder)["files"].get(name))
    return (folder / name).read_bytes()


def checked_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of an unpacked bundle, as it was signed. Raises Failed."""
    return strict_json(checked_bytes(folder, name), str(folder / name))


def _check(folder: Path, name: str, listed: Mapping[str, Any] | None) -> None:
    try:
        if listed is None or sha256_file(folder / name) != listed["sha256"]:
            raise Failed(f"{folder / name}: is not what was installed; it was altered: install the bundle again")
    except OSError as error:
        raise Failed(f"{folder / name}: cannot be read ({error.strerror}); install the bundle again") from None


def own_engine(manifest: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """What engine this device makes of the portable file: of the same runtime where it has that."""
    engine = manifest["engine"]
    kind = makers(engine, here)[0]  # `fitting` has found that there is one
    cpu = next((target for target, names in MACHINES.items() if str(here["machine"]).lower() in names), "cpu_x86")
    target = "local_gpu" if kind == "tensorrt" else engine["target"] if engine["target"] == "cuda" else cpu
    return {"name": f"{engine['precision']}.{kind}.{target}", "precision": engine["precision"],
            "compute": engine.get("compute"), "runtime": kind, "target": target,
            "batch": engine.get("profile") if kind == "tensorrt" else None, "engine": PORTABLE}


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        return strict_json((folder / name).read_bytes(), str(folder / name))
    except (OSError, Refused) as error:
        raise Failed(f"{folder / name}: cannot be read ({error}); install the bundle again") from None
