"""Whom this device trusts: what lies in its folder of keys, and what is taken out of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from .answers import Failed
from .place import Place, flushed
from .trust import PUBLIC, REVOKED, Refused, read_key, revoked


def keys(place: Place, gone: Sequence[str] = ()) -> dict[str, Any]:
    """{"keys": [{"file", "key_id", "name", "expires", "expired", "wrong"}], "removed": [the same], "revoked": [ids]}.

    gone: keys, by id, name or file, that are trusted no longer: all their files go, and ID.revoked is left, so that no
    `deploy` brings one back unasked. wrong: why a file is no key. Raises Failed, with nothing removed, for what is
    neither trusted here nor an id that was revoked already.
    """
    found = [_told(path) for path in sorted(place.keys.glob(f"*{PUBLIC}"))]
    called = [one for one in found if {one["file"], one["key_id"], one["name"]} & set(gone)]
    known = {word for one in found for word in (one["file"], one["key_id"], one["name"])}
    if unknown := [word for word in gone if word not in known | revoked(place.keys)]:
        there = ", ".join(sorted({one["key_id"] or one["file"] for one in found})) or "none"
        raise Failed(f"{place.keys}: no key is called {unknown[0]!r}, so none was removed; expected the id, name or "
                     f"file of one that is trusted: {there}")
    ids = {one["key_id"] for one in called if one["key_id"]}  # a damaged file has none
    removed = [one for one in found if one in called or one["key_id"] in ids]
    for key_id in ids:  # first: what interrupts this must not lose it
        (place.keys / f"{key_id}{REVOKED}").touch()
    for one in removed:
        (place.keys / one["file"]).unlink()
    if removed:
        flushed(place.keys)
    left = [one for one in found if one not in removed]  # a revoked key may be trusted again
    return {"keys": left, "removed": removed,
            "revoked": sorted(revoked(place.keys) - {one["key_id"] for one in left})}


def _told(path: Path) -> dict[str, Any]:
    blank = {"file": path.name, "key_id": None, "name": None, "expires": None, "expired": None, "wrong": None}
    try:
        key = read_key(path)
    except Refused as told:
        return {**blank, "wrong": str(told)}
    return {**blank, "key_id": key.key_id, "name": key.name, "expires": key.expires.isoformat(),
            "expired": date.today() > key.expires}
