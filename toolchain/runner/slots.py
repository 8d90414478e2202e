"""Bundles in use on a device: two slots, of which `current` is one, so that there is always one to go back to.

A bundle is verified, unpacked beside the slots, and has to give its golden answers there; only then it takes the place
of the slot that is not in use, and only then `current` is switched, by one rename.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .answers import Failed, progress
from .bundle import MANIFEST, Bundle, open_bundle
from .contents import GOLDEN, GOLDEN_IMAGES, GOLDEN_LOGITS, MACHINES, PORTABLE, PREPROCESS, fitting, makers
from .making import RECORD, make_engine
from .place import DIGEST, SLOTS, Place, flushed, locked, sha256_file, write_json
from .probe import device, need_numpy
from .trust import Refused, strict_json, trusted_keys

INSTALLED, BUILT = "installed.json", "built"
SHOWN = ("bundle", "engine", "runtime", "takes", "manifest_sha256", "limits_not_held")  # of installed.json
WAITING = "waiting for another bundle to be installed"


def verify(place: Place, name: str, keys: Path | None) -> tuple[Bundle, str]:
    """The bundle, a path or a digest in the store, after every check, and what of it this device takes.

    Raises Refused.
    """
    path = place.blob(name) if DIGEST.fullmatch(name) else Path(os.path.expanduser(name))
    bundle = open_bundle(path, trusted_keys(Path(os.path.expanduser(str(keys))) if keys else place.keys))
    return bundle, fitting(bundle.manifest, device())


def install(place: Place, name: str, slot: str | None, keys: Path | None) -> dict[str, Any]:
    """Verify, unpack, replay, switch. slot: None takes the one that is not in use. Raises Refused, Failed."""
    need_numpy()
    bundle, takes = verify(place, name, keys)
    with locked(place.root / "lock", WAITING):
        before = place.current()
        digest = bundle.manifest_sha256
        known = installed(place.slots / before) if before else None
        if before and known and known["manifest_sha256"] == digest and slot in (None, before):
            return {**_shown(known), "slot": before, "before": before, "golden": replay(place.slots / before),
                    "cached": True}
        if slot is not None and slot == before:
            raise Failed(f"slot {slot} is in use; install into slot {_other(slot)}, or let the runner choose")
        chosen = slot or _other(before)
        part = place.slots / f".{chosen}.part"
        shutil.rmtree(str(part), ignore_errors=True)
        part.mkdir(parents=True)
        try:
            facts = _unpacked(place, bundle, takes, part)
            write_json(part / INSTALLED, facts)
            progress("golden answers")
            facts["golden"] = _held(replay(part), facts["engine"])
            write_json(part / INSTALLED, facts)
            os.sync()  # a power cut after the switch must not find files that were never written
            _take(part, place.slots / chosen)
        except BaseException:
            shutil.rmtree(str(part), ignore_errors=True)
            raise
        place.switch(chosen)
    return {**_shown(facts), "slot": chosen, "before": before, "golden": facts["golden"], "cached": False}


def rollback(place: Place, to: str | None) -> dict[str, Any]:
    """Switch to the other slot, if its bundle still gives its golden answers. Raises Failed.

    to: the slot to be in use afterwards, so that it may be said twice.
    """
    need_numpy()
    with locked(place.root / "lock", WAITING):
        before = place.current()
        if before is None:
            raise Failed(f"{place.link}: no bundle is in use on this device; install one first")
        chosen = to or _other(before)
        facts = installed(place.slots / chosen)
        if facts is None:
            raise Failed(f"slot {chosen} is empty; there is nothing to go back to")
        golden = _held(replay(place.slots / chosen), facts["engine"])
        if chosen != before:
            place.switch(chosen)
    return {**_shown(facts), "slot": chosen, "before": before, "golden": golden, "cached": chosen == before}


def status(place: Place) -> dict[str, Any]:
    """What lies in the slots, and which one is in use."""
    slots = {slot: installed(place.slots / slot) for slot in SLOTS}
    return {"current": place.current(), "free_bytes": place.free_bytes(),
            "slots": {slot: facts and {**_shown(facts), "golden": facts["golden"]} for slot, facts in slots.items()}}


def installed(folder: Path) -> dict[str, Any] | None:
    """installed.json of a slot; None where the slot is empty."""
    try:
        facts = strict_json((folder / INSTALLED).read_bytes(), str(folder / INSTALLED))
    except (OSError, Refused):
        return None
    return facts if {*SHOWN, "golden"} <= set(facts) else None


def folder_in_use(place: Place, slot: str | None, beside: Path | None = None) -> Path:
    """The folder of a slot, or of the one in use, or of the unpacked bundle `beside`. Raises Failed."""
    if slot is None and beside is not None and (beside / MANIFEST).is_file():
        return beside
    chosen = slot or place.current()
    if chosen is None:
        raise Failed(f"{place.link}: no bundle is in use on this device; install one first")
    if installed(place.slots / chosen) is None:
        raise Failed(f"slot {chosen} is empty")
    return place.slots / chosen


def engine_of(folder: Path) -> tuple[dict[str, Any], Path]:
    """{"name", "runtime", "target", …} and the file of the engine to run, whose digest is what it was.

    folder: of a slot, or a bundle that somebody unpacked. Raises Failed.
    """
    manifest, facts = manifest_of(folder), installed(folder)
    record = manifest["engine"]
    takes = facts["takes"] if facts else fitting(manifest, device())
    if takes == "portable":
        record = _json(folder / BUILT, RECORD) if facts else _own(manifest, device())
        path = folder / BUILT / record["engine"] if facts else folder / PORTABLE
        expected = record["sha256"] if facts else manifest["files"][PORTABLE]["sha256"]
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
        if not (folder / GOLDEN).is_file():
            opened.infer(opened.noise(1, 0, preprocess["image_size"]))
            return {"images": 0, "distance": None, "tolerance": None, "same_answers": None, "held": True}
        facts, size = checked_json(folder, GOLDEN), preprocess["image_size"]
        images = np.frombuffer(checked_bytes(folder, GOLDEN_IMAGES), np.uint8).reshape(-1, size, size, 3)
        expected = np.frombuffer(checked_bytes(folder, GOLDEN_LOGITS), "<f4").reshape(len(images), -1)
        return replayed(opened.infer(normalize(images, preprocess)), expected, float(facts["tolerance"]))


def manifest_of(folder: Path) -> dict[str, Any]:
    """manifest.json of an unpacked bundle; in a slot, the one that was verified. Raises Failed."""
    facts = installed(folder)
    if facts and sha256_file(folder / MANIFEST) != facts["manifest_sha256"]:
        raise Failed(f"{folder / MANIFEST}: is not what was installed; it was altered: install the bundle again")
    return _json(folder, MANIFEST)


def checked_bytes(folder: Path, name: str) -> bytes:
    """A file of an unpacked bundle, as it was signed. Raises Failed."""
    listed = manifest_of(folder)["files"].get(name)
    try:
        if listed is None or sha256_file(folder / name) != listed["sha256"]:
            raise Failed(f"{folder / name}: is not what was installed; it was altered: install the bundle again")
        return (folder / name).read_bytes()
    except OSError as error:
        raise Failed(f"{folder / name}: cannot be read ({error.strerror}); install the bundle again") from None


def checked_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of an unpacked bundle, as it was signed. Raises Failed."""
    return strict_json(checked_bytes(folder, name), str(folder / name))


def _unpacked(place: Place, bundle: Bundle, takes: str, folder: Path) -> dict[str, Any]:
    """Every file of the bundle in `folder`, and the engine that this device builds itself."""
    for name in bundle.members:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        bundle.copy(name, folder / name)
    engine = bundle.manifest["engine"]
    if takes == "portable":
        engine = _own(bundle.manifest, device())
        make_engine(place, engine, folder / PORTABLE, folder / BUILT)
    return {"bundle": bundle.manifest["name"], "engine": engine["name"], "runtime": engine["runtime"],
            "takes": takes, "manifest_sha256": bundle.manifest_sha256, "key_id": bundle.key.key_id,
            "limits_not_held": bundle.manifest["limits_not_held"], "golden": None}


def _own(manifest: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """What engine this device makes of the portable file: of the same runtime where it has that."""
    engine = manifest["engine"]
    kind = makers(engine, here)[0]  # `fitting` has found that there is one
    cpu = next((target for target, names in MACHINES.items() if str(here["machine"]).lower() in names), "cpu_x86")
    target = "local_gpu" if kind == "tensorrt" else engine["target"] if engine["target"] == "cuda" else cpu
    return {"name": f"{engine['precision']}.{kind}.{target}", "precision": engine["precision"],
            "compute": engine.get("compute"), "runtime": kind, "target": target,
            "batch": engine.get("profile") if kind == "tensorrt" else None, "engine": PORTABLE}


def _held(golden: dict[str, Any], engine: str) -> dict[str, Any]:
    if not golden["held"]:
        away = "its logits are no numbers" if golden["distance"] is None else \
            f"its logits are {golden['distance']:.3g} away, allowed is {golden['tolerance']:g}"
        raise Failed(f"{engine}: does not give its golden answers on this device: {away}, and the answers are "
                     f"{'the same' if golden['same_answers'] else 'others'}; nothing was switched")
    return golden


def _take(part: Path, slot: Path) -> None:
    """Put `part` in the place of `slot`."""
    old = slot.with_name(f".{slot.name}.old")
    shutil.rmtree(str(old), ignore_errors=True)
    if slot.exists():
        os.replace(str(slot), str(old))
    os.replace(str(part), str(slot))
    flushed(slot.parent)
    shutil.rmtree(str(old), ignore_errors=True)


def _shown(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {field: facts[field] for field in SHOWN}


def _other(slot: str | None) -> str:
    return SLOTS[1] if slot == SLOTS[0] else SLOTS[0]


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        return strict_json((folder / name).read_bytes(), str(folder / name))
    except (OSError, Refused) as error:
        raise Failed(f"{folder / name}: cannot be read ({error}); install the bundle again") from None
