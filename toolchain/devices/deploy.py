"""A bundle on a device: sent, verified there, proven by golden inputs in the slot not in use, and taken into use."""

from __future__ import annotations

import posixpath
from typing import Any

from toolchain.console import log
from toolchain.devices.remote import ask, needs, ready, send
from toolchain.devices.transport import Link
from toolchain.devices.trusted import bring
from toolchain.errors import BundleRefused, DeviceError
from toolchain.files import sha256_file
from toolchain.runner.bundle import Bundle
from toolchain.runner.contents import fitting
from toolchain.runner.trust import Refused

SLOTS = ("A", "B")


async def deploy(link: Link, bundle: Bundle, slot: str | None = None) -> dict[str, Any]:
    """Put a bundle, which was verified here, into use. Returns what the runner's `install` answers.

    slot: "A" or "B"; None: the one that is not in use. The key that signed the bundle is trusted there from now on,
    which is told where it was not before, unless it was revoked there. Where anything does not hold the device goes on
    as it was. Raises BundleRefused, DeviceError.
    """
    facts = await ready(link)
    needs(facts, link)
    try:
        fitting(bundle.manifest, facts)
    except Refused as told:  # before anything large is sent
        raise BundleRefused(f"{link.name}: {told}") from None
    if slot is not None:
        await _refuse_in_use(link, bundle, slot)
    await bring(link, bundle.key)
    digest = sha256_file(bundle.path)
    store = await send(link, {digest: bundle.path})
    try:
        found = await ask(link, "install", digest, "--slot", slot or "auto")
    except (BundleRefused, DeviceError) as told:  # by the name that it has here
        raise type(told)(str(told).replace(posixpath.join(store, digest), str(bundle.path))) from None
    if found["damaged"]:
        log(f"{link.name}: the same bundle in slot {found['before']} was damaged ({found['damaged']}); slot "
            f"{found['slot']} is in use now instead of what it held before, so until the next deploy there is no "
            "earlier version for `toolchain rollback`")
    return found


async def rollback(link: Link) -> dict[str, Any]:
    """Use the other slot again; where none is in use any more, one that has a bundle. Returns what the runner's
    `rollback` answers. Raises DeviceError.
    """
    needs(await ready(link), link)
    there = await ask(link, "status")
    current, full = there["current"], [slot for slot in SLOTS if there["slots"][slot]]
    full.sort(key=lambda slot: there["slots"][slot]["damaged"] is not None)
    if not full:
        raise DeviceError(f"{link.name}: nothing is deployed there, so there is nothing to go back from")
    other = SLOTS[1 - SLOTS.index(current)] if current else full[0]  # named, so that a cut line can ask again
    return await ask(link, "rollback", "--to", other)


async def _refuse_in_use(link: Link, bundle: Bundle, slot: str) -> None:
    """Raise DeviceError, before anything is sent, where another bundle, or a damaged one, is in use in the slot."""
    there = await ask(link, "status")
    known = there["slots"][slot]
    if there["current"] == slot and known and (
            known["damaged"] or known["manifest_sha256"] != bundle.manifest_sha256):
        raise DeviceError(f"{link.name}: slot {slot} is in use there ({known['bundle']}); name the other slot, or "
                          "leave --slot out; nothing was sent")


async def tidy(link: Link, days: float) -> dict[str, Any]:
    """Remove what nothing asked for in `days` days; what is deployed stays. Returns the answer of `tidy` there."""
    await ready(link)
    return await ask(link, "tidy", "--days", f"{days:g}")


async def probe(link: Link) -> dict[str, Any]:
    """What the device has, and what is deployed there: `probe` of the runner with its `status` as "deployed"."""
    return {**await ready(link), "deployed": await ask(link, "status")}
