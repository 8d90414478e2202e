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
from .contents import PORTABLE, fitting
from .making import make_engine
from .place import DIGEST, SLOTS, Place, flushed, locked, write_json
from .probe import device, need_numpy
from .trust import Refused, revoked, trusted_keys
from .unpacked import BUILT, INSTALLED, SHOWN, installed, own_engine, replay, whole

WAITING = "waiting for another bundle to be installed"


def verify(place: Place, name: str, keys: Path | None) -> tuple[Bundle, str]:
    """The bundle, a path or a digest in the store, after every check, and what of it this device takes.

    Raises Refused.
    """
    path = place.blob(name) if DIGEST.fullmatch(name) else Path(os.path.expanduser(name))
    folder = Path(os.path.expanduser(str(keys))) if keys else place.keys
    try:
        trusted = trusted_keys(folder)
    except Refused as told:
        raise Refused(f"{told}; while that file lies on this device no bundle is accepted: delete it") from None
    try:
        bundle = open_bundle(path, trusted)
    except Refused as told:
        hint = f"; to trust a key, put its .pub file into {folder}" if "not trusted here" in str(told) else ""
        if any(f"names {key_id} as the key" in str(told) for key_id in revoked(folder)):
            hint = "; it was revoked here"
        raise Refused(f"{told}{hint}") from None
    return bundle, fitting(bundle.manifest, device())


def install(place: Place, name: str, slot: str | None, keys: Path | None) -> dict[str, Any]:
    """Verify, unpack, replay, switch. slot: None takes the one that is not in use. Raises Refused, Failed.

    Where the bundle is in use already it has to be whole there and to give its golden answers still; one that does not
    is installed once more, into the other slot, and "damaged" says why.
    """
    need_numpy()
    bundle, takes = verify(place, name, keys)
    with locked(place.root / "lock", WAITING):
        before = place.current()
        known, damaged = installed(place.slots / before) if before else None, None
        if before and known and known["manifest_sha256"] == bundle.manifest_sha256 and slot in (None, before):
            try:
                golden = _proven(place.slots / before, known)
                return {**_shown(known), "slot": before, "before": before, "golden": golden, "cached": True,
                        "damaged": None}
            except Failed as told:
                damaged = str(told)
        if slot is not None and slot == before:
            raise Failed(f"slot {slot} is in use{f', and damaged ({damaged})' if damaged else ''}; install into slot "
                         f"{_other(slot)}, or let the runner choose")
        chosen = slot or _free(place, before)
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
        except BaseException as error:
            shutil.rmtree(str(part), ignore_errors=True)
            if damaged and isinstance(error, Failed):
                raise Failed(f"{error}; slot {before} has the same bundle in use, which is no better there") from None
            raise
        place.switch(chosen)
    return {**_shown(facts), "slot": chosen, "before": before, "golden": facts["golden"], "cached": False,
            "damaged": damaged}


def rollback(place: Place, to: str | None) -> dict[str, Any]:
    """Switch to the other slot, if its bundle still gives its golden answers. Raises Failed.

    to: the slot to be in use afterwards, so that it may be said twice. Where none is in use, since `current` or its
    slot was lost, any that has a bundle will do.
    """
    need_numpy()
    with locked(place.root / "lock", WAITING):
        before = place.current()
        full = [slot for slot in SLOTS if installed(place.slots / slot)]
        if before is None:
            full.sort(key=lambda slot: _damage(place.slots / slot) is not None)
        if before is None and not full:
            raise Failed(f"{place.link}: no bundle is in use on this device; install one first")
        chosen = to or (_other(before) if before else full[0])
        facts = installed(place.slots / chosen)
        if facts is None:
            raise Failed(f"slot {chosen} is empty; there is nothing to go back to")
        golden = _proven(place.slots / chosen, facts)
        if chosen != before:
            place.switch(chosen)
    return {**_shown(facts), "slot": chosen, "before": before, "golden": golden, "cached": chosen == before}


def status(place: Place) -> dict[str, Any]:
    """What lies in the slots, which one is in use, and how files of a bundle are not as they were installed."""
    slots = {slot: installed(place.slots / slot) for slot in SLOTS}
    return {"current": place.current(), "free_bytes": place.free_bytes(), "slots": {
        slot: facts and {**_shown(facts), "golden": facts["golden"], "damaged": _damage(place.slots / slot)}
        for slot, facts in slots.items()}}


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


def _damage(folder: Path) -> str | None:
    try:
        whole(folder)
    except Failed as told:
        return str(told)
    return None


def _unpacked(place: Place, bundle: Bundle, takes: str, folder: Path) -> dict[str, Any]:
    """Every file of the bundle in `folder`, and the engine that this device builds itself."""
    for name in bundle.members:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        bundle.copy(name, folder / name)
    engine = bundle.manifest["engine"]
    if takes == "portable":
        engine = own_engine(bundle.manifest, device())
        make_engine(place, engine, folder / PORTABLE, folder / BUILT)
    return {"bundle": bundle.manifest["name"], "engine": engine["name"], "runtime": engine["runtime"],
            "takes": takes, "manifest_sha256": bundle.manifest_sha256, "key_id": bundle.key.key_id,
            "limits_not_held": bundle.manifest["limits_not_held"], "golden": None}


def _proven(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The golden answers of a slot that is whole and gives them. Raises Failed."""
    whole(folder)
    return _held(replay(folder), facts["engine"])


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


def _other(slot: str) -> str:
    return SLOTS[1] if slot == SLOTS[0] else SLOTS[0]


def _free(place: Place, in_use: str | None) -> str:
    """Where to install: not into the slot in use; where none is, into an empty one, or that of the earlier bundle."""
    def since(slot: str) -> float:
        return (place.slots / slot / INSTALLED).stat().st_mtime if installed(place.slots / slot) else 0

    return _other(in_use) if in_use else min(SLOTS, key=since)
