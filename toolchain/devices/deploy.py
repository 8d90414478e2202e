"""A bundle on a device: sent, verified there, proven by golden inputs in the slot not in use, and taken into use."""

from __future__ import annotations

import posixpath
from typing import Any

from toolchain.devices.remote import ask, needs, ready, send
from toolchain.devices.transport import Link
from toolchain.errors import BundleRefused, DeviceError
from toolchain.files import sha256_file
from toolchain.runner.bundle import Bundle
from toolchain.runner.contents import fitting
from toolchain.runner.trust import PUBLIC, Refused, key_text

SLOTS = ("A", "B")


async def deploy(link: Link, bundle: Bundle, slot: str | None = None) -> dict[str, Any]:
    """Put a bundle, which was verified here, into use. Returns what the runner's `install` answers.

    slot: "A" or "B"; None: the one that is not in use. The key that signed the bundle is trusted there from now on.
    Where anything does not hold the device goes on as it was. Raises BundleRefused, DeviceError.
    """
    facts = await ready(link)
    needs(facts, link)
    try:
        fitting(bundle.manifest, facts)
    except Refused as told:  # before anything large is sent
        raise BundleRefused(f"{link.name}: {told}") from None
    key = posixpath.join(link.folder, "keys", f"{bundle.key.key_id}{PUBLIC}")
    await link.write({key: key_text(bundle.key).encode()})
    digest = sha256_file(bundle.path)
    await send(link, {digest: bundle.path})
    return await ask(link, "install", digest, "--slot", slot or "auto")


async def rollback(link: Link) -> dict[str, Any]:
    """Use the other slot again. Returns what the runner's `rollback` answers. Raises DeviceError."""
    needs(await ready(link), link)
    current = (await ask(link, "status"))["current"]
    if current is None:
        raise DeviceError(f"{link.name}: nothing is deployed there, so there is nothing to go back from")
    other = SLOTS[1 - SLOTS.index(current)]  # named, so that a cut line can ask again
    return await ask(link, "rollback", "--to", other)


async def tidy(link: Link, days: float) -> dict[str, Any]:
    """Remove what nothing asked for in `days` days; what is deployed stays. Returns the answer of `tidy` there."""
    await ready(link)
    return await ask(link, "tidy", "--days", f"{days:g}")


async def probe(link: Link) -> dict[str, Any]:
    """What the device has, and what is deployed there: `probe` of the runner with its `status` as "deployed"."""
    return {**await ready(link), "deployed": await ask(link, "status")}
