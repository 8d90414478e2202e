"""Whose bundles a device accepts: keys that lie there, those that were revoked, and the one that a bundle brings.

A revoked key leaves a file keys/<id>.revoked on the device, also where its own runner revoked it, so that no later
`deploy`, from whatever machine, brings it back; whoever can enter there and asks for that key does.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.console import log
from toolchain.devices.remote import ask, ready
from toolchain.devices.transport import Link
from toolchain.errors import BundleRefused, DeviceError
from toolchain.runner.trust import PUBLIC, REVOKED, Key, key_text


async def keys(link: Link, gone: str | None = None, instead: str | None = None) -> dict[str, Any]:
    """Whom the device trusts and whose keys were revoked there, as `keys` of the runner tells it. gone: a key, by id,
    name or file, to trust no longer; "removed": whether it is so. instead: the id that is meant where nothing there is
    called `gone`; it is revoked though the device never knew it.

    Raises DeviceError where several keys have that name.
    """
    await ready(link)
    told = await ask(link, "keys")
    if not gone:
        return told
    files = _files_of(link, told["keys"], gone)
    if instead and not files:
        files = _files_of(link, told["keys"], instead)
        if not files:
            await link.write({_mark(link, instead): b""})  # never to be brought there
    after = await ask(link, "keys", *(["--remove", *files] if files else []))
    return {**after, "removed": bool(files or {gone, instead} & set(after["revoked"]))}


async def trust(link: Link, key: Key) -> dict[str, Any]:
    """Have the device trust the key, though it was revoked there; returns what `keys` does."""
    await ready(link)
    await _put(link, key)
    await link.remove(_mark(link, key.key_id))
    return await keys(link)


async def bring(link: Link, key: Key) -> None:
    """Have the device trust the key of a bundle: whoever can enter there decides that. It is told, unless it did
    already. Raises BundleRefused where it was revoked there.
    """
    told = await ask(link, "keys")
    if any(one["key_id"] == key.key_id and one["expires"] == key.expires.isoformat() for one in told["keys"]):
        return
    if key.key_id in told["revoked"]:
        raise BundleRefused(f"{link.name}: the key {key.name} ({key.key_id}) was revoked there, so nothing was sent; "
                            f"sign with another key, or trust it again: toolchain device keys {link.name} --trust "
                            f"{key.key_id}")
    await _put(link, key)
    log(f"{link.name}: did not know the key {key.name} ({key.key_id}), and trusts it from now on; to revoke it: "
        f"toolchain device keys {link.name} --remove {key.key_id}")


async def _put(link: Link, key: Key) -> None:
    await link.write({posixpath.join(link.folder, "keys", f"{key.key_id}{PUBLIC}"): key_text(key).encode()})


def _mark(link: Link, key_id: str) -> str:
    return posixpath.join(link.folder, "keys", f"{key_id}{REVOKED}")


def _files_of(link: Link, there: Sequence[Mapping[str, Any]], gone: str) -> list[str]:
    """The files of the key called `gone`: of a sound one all that it has there, or it would be trusted still."""
    called = [one for one in there if gone in (one["file"], one["key_id"], one["name"])]
    if len(ids := {one["key_id"] or one["file"] for one in called}) > 1:
        raise DeviceError(f"{link.name}: trusts several keys called {gone}; remove one by its id: "
                          + ", ".join(sorted(ids)))
    return sorted(one["file"] for one in there if (one["key_id"] or one["file"]) in ids)
