"""What the commands about devices do, callable from Python with the same arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.devices.file import add, chosen, devices_file, load_devices, parsed, remove
from toolchain.errors import BundleRefused, RecipeError, ToolchainError

if TYPE_CHECKING:
    from toolchain.runner.trust import Key

PLAIN_WIDTH = 140  # columns where stdout is no terminal
SLOTS = ("A", "B")


def run_add(file: Path | None, name: str, address: str, settings: Mapping[str, str | None]) -> None:
    """Write the device at ssh://user@host:port into devices.yaml. Raises RecipeError, WorkDirError."""
    if key_file := settings.get("key_file"):
        from toolchain.devices.keys import refuse_public

        refuse_public(name, key_file)
    path = devices_file(file)
    device = add(path, name, {**parsed(address), **settings})
    print(f"{path}: {name} is {device.address}; see what it has: toolchain device probe {name}")


def run_list(file: Path | None) -> None:
    """Print the devices, one a line. Raises RecipeError."""
    path = devices_file(file)
    known = load_devices(path)
    for name, device in known.items():
        more = ", ".join(f"{field}: {value}" for field, value in device.model_dump(exclude_defaults=True).items()
                         if field not in ("host", "port", "user"))
        print(f"{name:<20} {device.address:<40} {more}".rstrip())
    if not known:
        print(f"{path}: no devices; add one: toolchain device add NAME ssh://user@host")


def run_remove(file: Path | None, name: str) -> None:
    """Take a device out of devices.yaml. Raises RecipeError, WorkDirError."""
    path = devices_file(file)
    remove(path, name)
    print(f"{path}: {name} is removed; what lies on the device stays there")


def run_probe(file: Path | None, names: Sequence[str], as_json: bool = False) -> None:
    """Print what devices have. Raises RecipeError, DeviceError (after the others were printed)."""
    from toolchain.devices.deploy import probe
    from toolchain.devices.many import each, refuse_failed

    found = each(chosen(devices_file(file), names), probe)
    told = {name: facts for name, facts in found.items() if not isinstance(facts, ToolchainError)}
    if as_json:
        print(json.dumps(told, indent=1, sort_keys=True))
    elif told:
        print("\n\n".join(f"{name}\n{_facts(facts)}" for name, facts in told.items()))
    refuse_failed(found)


def run_tidy(file: Path | None, names: Sequence[str], days: float = 30) -> None:
    """Remove from devices what nothing asked for in `days` days. Raises RecipeError, DeviceError."""
    from toolchain.devices.deploy import tidy
    from toolchain.devices.many import each, refuse_failed

    if not 0 <= days < 1e5:
        raise RecipeError(f"found --days {days:g}, expected a number from 0 on")
    found = each(chosen(devices_file(file), names), lambda link: tidy(link, days))
    for name, told in found.items():
        if not isinstance(told, ToolchainError):
            print(f"{name}: {told['removed']} removed, {_gb(told['freed_bytes'])} freed, "
                  f"{_gb(told['free_bytes'])} free")
    refuse_failed(found)


def run_device_keys(
    file: Path | None, names: Sequence[str], gone: str | None = None, new: str | None = None,
    key_folder: Path | None = None,
) -> None:
    """Print whom devices trust, a key a line. gone: one, by id, name, file there or .pub file here, to trust no longer.
    new: one, by .pub file here, or id or name among those trusted in `key_folder`, to trust, also if it was revoked.

    Raises RecipeError (no device trusts it; no such key here), BundleRefused (the file here is no key), DeviceError
    (some device failed; the others are done).
    """
    from toolchain.devices.many import each, refuse_failed
    from toolchain.devices.trusted import keys, trust
    from toolchain.runner.answers import plain

    if gone is not None and new is not None:
        raise RecipeError("found --remove and --trust; expected one of them at a time")
    if gone == "":
        raise RecipeError("found --remove with nothing; expected the id, name or file of a key, or its .pub file here")
    devices, local = chosen(devices_file(file), names), _id_here(gone) if gone else None
    key = _key_here(new, key_folder) if new is not None else None
    found = each(devices, lambda link: trust(link, key) if key else keys(link, gone, local))
    told = {name: one for name, one in found.items() if not isinstance(one, ToolchainError)}
    for name, one in told.items():
        if one["removed"]:
            print(f"{name}: {gone} is trusted no longer, and `toolchain deploy` does not bring it back")
        print(f"{name}: trusts {'these keys' if any(not key['wrong'] for key in one['keys']) else 'no key'}")
        for key in one["keys"]:
            state = "expired on" if key["expired"] else "until"
            print(f"  {plain(key['file'])}: keeps every bundle out; remove it: {key['wrong']}" if key["wrong"] else
                  f"  {key['key_id']}  {key['name']:<20} {state} {key['expires']}  {plain(key['file'])}")
        for key_id in map(plain, one["revoked"]):
            print(f"  {key_id}  revoked; to trust it again: toolchain device keys {name} --trust {key_id}")
    refuse_failed(found)
    if gone and not any(one["removed"] for one in told.values()):
        raise RecipeError(f"found --remove {gone}, which is trusted by none of {', '.join(told)}; expected the id, "
                          "name or file of a key above, or its .pub file here")


def _id_here(word: str) -> str | None:
    """The id of the public key in a file of this machine. None: `word` may be what a device calls a key.

    Raises RecipeError, BundleRefused for a path, which no device calls a key by.
    """
    from toolchain.runner.trust import Refused, read_key

    path = Path(word).expanduser()
    if path.name == word and not path.is_file():
        return None
    if not path.is_file():
        raise RecipeError(f"found --remove {word}, which is no file here; expected a public key, NAME.pub, or the id, "
                          "name or file of a key as `toolchain device keys` shows it")
    try:
        return read_key(path).key_id
    except Refused as told:
        if path.name == word:
            return None
        raise BundleRefused(f"{told}; name the key by its id, as `toolchain device keys` shows it") from None


def _key_here(word: str, folder: Path | None) -> Key:
    """The public key that --trust names. Raises RecipeError, BundleRefused (the file is no key)."""
    from toolchain.commands_ship import KEYS
    from toolchain.runner.trust import Refused, read_key
    from toolchain.ship.keys import believed

    path = Path(word).expanduser()
    if path.is_file():
        try:
            return read_key(path)
        except Refused as told:
            raise BundleRefused(str(told)) from None
    folder = (folder or KEYS).expanduser()
    called = [key for key in believed(folder).values() if word in (key.key_id, key.name)]
    if len(called) != 1:
        raise RecipeError(f"found --trust {word}, which is {'several keys' if called else 'no key'} of {folder}, and "
                          "no file here; expected a public key, NAME.pub, or the id or name of a key that "
                          "`toolchain keys list` shows as trusted")
    return called[0]


def run_deploy(
    file: Path | None, path: Path, names: Sequence[str], slot: str | None = None, keys: Path | None = None
) -> None:
    """Put the bundle in `path` into use on devices, and print a row for each. slot: "A" or "B"; None: the unused one.

    Raises BundleRefused (it does not hold here), RecipeError, DeviceError (some device failed; the others are done).
    """
    from toolchain.commands_ship import KEYS, refuse_missing
    from toolchain.devices.deploy import deploy
    from toolchain.devices.many import each, refuse_failed
    from toolchain.runner.bundle import open_bundle
    from toolchain.runner.trust import Refused
    from toolchain.ship.keys import believed

    if slot is not None and slot.upper() not in SLOTS:
        raise RecipeError(f"found --slot {slot}, expected A or B")
    devices = chosen(devices_file(file), names)
    refuse_missing(path)
    try:
        bundle = open_bundle(path, believed((keys or KEYS).expanduser()))
    except Refused as told:
        raise BundleRefused(str(told)) from None
    found = each(devices, lambda link: deploy(link, bundle, slot and slot.upper()))
    rows = {name: [one["slot"], one["before"] or "none", f"{one['bundle']}: {one['engine']}", _golden(one["golden"]),
                   "was in use already" if one.get("cached") else "in use"]
            for name, one in found.items() if not isinstance(one, ToolchainError)}
    _print(found, ("slot", "before", "bundle", "golden inputs", ""), rows)
    refuse_failed(found)


def run_rollback(file: Path | None, names: Sequence[str]) -> None:
    """Use what was deployed before on devices, and print a row for each. Raises RecipeError, DeviceError."""
    from toolchain.devices.deploy import rollback
    from toolchain.devices.many import each, refuse_failed

    found = each(chosen(devices_file(file), names), rollback)
    rows = {name: [one["slot"], one["before"] or "none", f"{one['bundle']}: {one['engine']}", _golden(one["golden"]),
                   "in use again"]
            for name, one in found.items() if not isinstance(one, ToolchainError)}
    _print(found, ("slot", "before", "bundle", "golden inputs", ""), rows)
    refuse_failed(found)


def _print(found: Mapping[str, Any], titles: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """A row for each device; of one that failed only that. Nothing where all did: their reasons say it."""
    if not rows:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("device", *titles):
        table.add_column(title, overflow="fold")
    for name in found:
        table.add_row(name, *rows.get(name, ["-"] * (len(titles) - 1) + ["failed"]))
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)
    console.print(table)


def _golden(told: Mapping[str, Any]) -> str:
    if not told.get("images"):
        return "none; opened and run"
    return f"{told['images']} answered alike, {told['distance']:.1e} off"


def _facts(facts: Mapping[str, Any]) -> str:
    """What a person asks of a device, a line each."""
    gpu, deployed = facts["gpu"], facts["deployed"]
    runtimes = ", ".join(f"{name} {version}" for name, version in facts["runtimes"].items())
    broken = "".join(f"; {name} does not load: {why}" for name, why in facts["broken"].items())
    slots = {slot: told for slot, told in deployed["slots"].items() if told}
    lines = {
        "machine": f"{facts['machine']}, {facts['cpu']}, {facts['cores']} cores, {_gb(facts['memory_bytes'])} memory",
        "GPU": f"{gpu['name']}, SM{gpu['sm']}, {_gb(gpu['memory_bytes'])}" if gpu else None,
        "JetPack": facts["jetpack"] and f"{facts['jetpack']} (L4T {facts['l4t']})",
        "python": f"{facts['python']}, " + (f"numpy {facts['numpy']}" if facts["numpy"] else "no numpy"),
        "runtimes": (runtimes or "none") + broken,
        "power": ", ".join(filter(None, [facts["power_mode"], facts["governor"]])) or None,
        "folder": f"{facts['folder']}, {_gb(facts['folder_bytes'])} of ours, {_gb(facts['free_bytes'])} free",
        "deployed": "; ".join(f"{slot}{' (in use)' if slot == deployed['current'] else ''}: {told['bundle']}, "
                              f"{told['engine']}" for slot, told in slots.items()) or "nothing",
        "damaged": "; ".join(f"{slot}: {told['damaged']}" for slot, told in slots.items() if told["damaged"]),
    }
    return "\n".join(f"  {title:<9} {text}" for title, text in lines.items() if text)


def _gb(count: int | None) -> str:
    return "?" if count is None else f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
