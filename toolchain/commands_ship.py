"""What the commands about bundles and keys do, callable from Python with the same arguments."""

from __future__ import annotations

import getpass
import json
import sys
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.errors import BundleRefused, RecipeError, nearest
from toolchain.runner.bundle import open_bundle
from toolchain.runner.contents import GOLDEN, fitting
from toolchain.runner.trust import Refused

if TYPE_CHECKING:
    from toolchain.runner.bundle import Bundle

KEYS = Path("~/.config/toolchain/keys")
VALID_DAYS = 365


def run_ship(
    run: Path, engine: str, device: str | None = None, portable: bool = False, anyway: bool = False,
    key: str | None = None, keys: Path | None = None, passphrase_file: Path | None = None, out: Path | None = None,
    devices: Path | None = None,
) -> int:
    """Pack and sign one engine of the build in `run`. Returns 0.

    device: `here`, a device of the file `devices` (None: the usual one), or what it has; None: any. out: default
    RUN/<recipe>.<engine>.bundle. Raises as `gathered` and `chosen` do, BundleRefused where the engine does not fit the
    device, DeviceError where that cannot be asked.
    """
    from toolchain.ship.gather import gathered
    from toolchain.ship.keys import chosen, locked, open_private
    from toolchain.ship.pack import refuse_replaced, write_bundle

    if out is not None:
        refuse_replaced(out)
    folder = _folder(keys)
    signer = chosen(folder, key)
    content, files = gathered(run, engine, portable, anyway, device)
    if device is not None:
        _fitting({**content, "files": files}, device, devices,
                 "ship an engine built for it, or with --portable the ONNX file that it builds its own from")
    words = _passphrase(passphrase_file, ask=locked(folder, signer), repeat=False)
    private = open_private(folder, signer, words)
    path = out or run / f"{content['name']}.{content['engine']['name']}.bundle"
    write_bundle(path, content, files, signer, private.sign)
    print(f"{path}: {len(files)} files, {path.stat().st_size / 1e6:.2f} MB, signed by {signer.name} ({signer.key_id})")
    if content["limits_not_held"]:
        print(f"it says that limits were not held: {'; '.join(content['limits_not_held'])}", file=sys.stderr)
    return 0


def run_verify(
    path: Path, device: str | None = None, keys: Path | None = None, as_json: bool = False, devices: Path | None = None,
) -> int:
    """Check the bundle in `path`, and whether it fits `device` (`here`, one of the file `devices`, or what it has).
    Returns 0.

    Raises BundleRefused with the first thing that does not hold, RecipeError where there is no such file, DeviceError.
    """
    from toolchain.ship.keys import TRUSTED, believed

    folder = _folder(keys)
    refuse_missing(path)
    try:
        bundle = open_bundle(path, believed(folder))
    except Refused as told:
        hint = f" (in {folder / TRUSTED}; toolchain keys trust FILE)" if "not trusted here" in str(told) else ""
        raise BundleRefused(f"{told}{hint}") from None
    otherwise = "ship the engine that was built for it"
    takes = _fitting(bundle.manifest, device, devices, otherwise) if device is not None else None
    if as_json:
        print(json.dumps(bundle.manifest, indent=1, sort_keys=True))
        return 0
    _show(bundle, takes, device)
    return 0


def refuse_missing(path: Path) -> None:
    """Raise RecipeError where there is no bundle to look into."""
    if not path.exists():
        beside = [one.name for one in path.parent.glob("*.bundle")]
        raise RecipeError(f"{path}: does not exist{nearest(path.name, beside)}; expected a bundle, as `toolchain ship` "
                          "writes it")


def run_keys_new(
    name: str, expires: date | str | None = None, ask: bool = False, keys: Path | None = None,
    passphrase_file: Path | None = None,
) -> None:
    """Make a key pair and print where it lies. expires: a date, or one as 2027-12-31; default in a year. Raises
    RecipeError.
    """
    from toolchain.ship.keys import new_key

    folder, last = _folder(keys), _day(expires) if isinstance(expires, str) else expires
    words = _passphrase(passphrase_file, ask, repeat=True)
    key = new_key(folder, name, last or date.today() + timedelta(days=VALID_DAYS), words)
    print(f"{folder / name}.key signs bundles until {key.expires}; keep it here and to yourself\n"
          f"{folder / name}.pub ({key.key_id}) is for those who verify them: toolchain keys trust {name}.pub")


def _day(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise RecipeError(f"found --expires {text}, expected a day as year-month-day, such as 2027-12-31") from None


def run_keys_list(keys: Path | None = None) -> None:
    """Print the keys of the folder, one a line: those that sign, those that are trusted, and public ones that are
    neither; and damaged files, with what mends them.
    """
    from toolchain.ship.keys import believed, damaged, own_keys, public_keys

    folder, today = _folder(keys), date.today()
    trusted, wrong = believed(folder, tell=False), damaged(folder)
    own = {key.key_id: key for key in own_keys(folder)}
    public = {key.key_id: key for key in public_keys(folder)}
    for key in sorted({**public, **trusted, **own}.values(), key=lambda one: one.name):
        roles = [role for role, there in (("signs", own), ("trusted", trusted)) if key.key_id in there]
        state = "expired on" if today > key.expires else "until"
        print(f"{key.key_id}  {key.name:<20} {', '.join(roles) or 'not trusted':<15} {state} {key.expires}")
    for told in wrong.values():
        print(f"{'damaged':<16}  {told}")
    if not own and not trusted and not public and not wrong:
        print(f"{folder}: no keys; make one: toolchain keys new NAME, or trust another's: toolchain keys trust FILE")


def run_keys_trust(file: Path, keys: Path | None = None, replace: bool = False) -> None:
    """Trust the public key in `file`. replace: also where it is trusted with other dates, or its file is damaged.

    Raises BundleRefused (no such key), RecipeError (no such file; another key has its name; it has other dates).
    """
    from toolchain.ship.keys import trust

    key = trust(_folder(keys), file, replace)
    print(f"{key.name} ({key.key_id}) is trusted until {key.expires}")


def _show(bundle: Bundle, takes: str | None, device: str | None) -> None:
    manifest, engine = bundle.manifest, bundle.manifest["engine"]
    golden = "golden inputs with its answers" if GOLDEN in bundle.members else "no golden inputs"
    print(f"{bundle.path}: holds, {len(manifest['files'])} files as signed by {bundle.key.name} ({bundle.key.key_id}), "
          f"which is trusted until {bundle.key.expires}\n"
          f"{manifest['name']}: {engine['name']}, {engine['runtime']} {engine['runtime_version']}, {golden}")
    if manifest.get("limits_not_held"):
        print(f"limits not held: {'; '.join(manifest['limits_not_held'])}")
    if takes:
        print(f"{device}: " + ("takes the engine" if takes == "engine" else "builds its own engine from the ONNX file"))


def _fitting(manifest: dict, device: str, devices: Path | None, otherwise: str) -> str:
    from toolchain.devices.named import facts

    try:
        return fitting(manifest, facts(device, devices))
    except Refused as told:
        raise BundleRefused(f"{told}" if "--portable" in str(told) else f"{told}; {otherwise}") from None


def _folder(keys: Path | None) -> Path:
    return (keys or KEYS).expanduser()


def _passphrase(file: Path | None, ask: bool, repeat: bool) -> bytes | None:
    """From a file's first line, or a prompt on a terminal; None where none is needed. Raises RecipeError."""
    if file is not None:
        try:
            words = file.read_text(encoding="utf-8").partition("\n")[0]
        except (OSError, ValueError) as error:
            raise RecipeError(f"{file}: cannot be read as a passphrase ({error})") from None
    elif not ask:
        return None
    elif not sys.stdin.isatty():
        raise RecipeError("there is no terminal to ask for the key's passphrase; give it as the first line of a file: "
                          "--passphrase-file FILE")
    else:
        words = _asked("passphrase: ")
        if repeat and _asked("once more: ") != words:
            raise RecipeError("the two passphrases differ; nothing was made")
    if not words:
        raise RecipeError("the passphrase is empty; nothing was done")
    return words.encode("utf-8")


def _asked(prompt: str) -> str:
    try:
        return getpass.getpass(prompt)
    except EOFError:
        raise RecipeError("no passphrase was given; nothing was done") from None
