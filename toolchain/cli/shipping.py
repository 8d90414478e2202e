"""The commands that hand an engine on: bundles, and the keys that sign them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli.options import FileOption, app

keys = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Make, list and trust keys that sign bundles.")
app.add_typer(keys, name="keys", rich_help_panel="Ship")

KeysOption = Annotated[Path | None, typer.Option(
    "--keys", envvar="TOOLCHAIN_KEYS", help="Folder of keys  \\[default: ~/.config/toolchain/keys]")]
PassphraseOption = Annotated[Path | None, typer.Option(
    "--passphrase-file", help="File whose first line is the passphrase of the private key.")]
DEVICE = "'here', a device of devices.yaml, which is asked, or what it has: 'machine=aarch64 sm=87 tensorrt=10.3.0'"


@app.command(rich_help_panel="Ship")
def ship(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished build, such as build/vgg11_int8")],
    engine: Annotated[str, typer.Option(
        "--engine", metavar="NAME", help="Which engine; a precision, if only one engine has it.")],
    to: Annotated[str | None, typer.Option(
        "--to", metavar="DEVICE", help=f"Refuse what does not fit the device, or broke limits there: {DEVICE}")] = None,
    portable: Annotated[bool, typer.Option(
        "--portable", help="Add the ONNX file it was built from, for devices that build their own engine.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Also if limits were not held; the bundle says so.")] = False,
    key: Annotated[str | None, typer.Option(
        "--key", metavar="NAME", help="Key to sign with  \\[default: the only one]")] = None,
    key_folder: KeysOption = None, passphrase_file: PassphraseOption = None,
    out: Annotated[Path | None, typer.Option(
        "-o", "--out", metavar="FILE", help="Bundle  \\[default: RUN/<recipe>.<engine>.bundle]")] = None,
    devices: FileOption = None,
) -> None:
    """Pack one engine of RUN into a signed bundle: a single file, the same bytes every time.

    It holds the engine, preprocessing, class names, golden inputs with the
    engine's answers, the measured figures, the recipe, where everything comes
    from (digests of data, code and versions), a CycloneDX SBOM, and run.py, which
    checks and runs it on a device. Nothing is built or measured.

    \b
      toolchain keys new workshop
      toolchain ship build/vgg11_int8 --engine int8.onnxruntime.cpu_x86
    """
    from toolchain.commands_ship import run_ship

    raise typer.Exit(run_ship(run, engine, to, portable, anyway, key, key_folder, passphrase_file, out, devices))


@app.command(rich_help_panel="Ship")
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `toolchain ship` wrote.")],
    for_: Annotated[str | None, typer.Option("--for", metavar="DEVICE", help=f"Also whether it fits: {DEVICE}")] = None,
    key_folder: KeysOption = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
    devices: FileOption = None,
) -> None:
    """Check BUNDLE: its form, the signature of a trusted key, every digest, and whether its files fit together.

    What does not hold is told in one sentence, with exit code 13. Nothing in
    the bundle is interpreted before its signature and digests hold.
    """
    from toolchain.commands_ship import run_verify

    raise typer.Exit(run_verify(bundle, for_, key_folder, json_, devices))


@keys.command("new")
def keys_new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it, such as workshop")],
    expires: Annotated[str | None, typer.Option(
        "--expires", metavar="DATE", help="Last day it counts, such as 2027-12-31  \\[default: in a year]")] = None,
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Ask for a passphrase to lock it with.")] = False,
    key_folder: KeysOption = None, passphrase_file: PassphraseOption = None,
) -> None:
    """Make an Ed25519 key pair, and trust it on this machine.

    NAME.key is private and never leaves this machine; NAME.pub is what the
    others get: toolchain keys trust NAME.pub
    """
    from toolchain.commands_ship import run_keys_new

    run_keys_new(name, expires, passphrase, key_folder, passphrase_file)


@keys.command("list")
def keys_list(key_folder: KeysOption = None) -> None:
    """Show the keys that sign here and those that are trusted, with the day they expire."""
    from toolchain.commands_ship import run_keys_list

    run_keys_list(key_folder)


@keys.command("trust")
def keys_trust(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A public key, NAME.pub")], key_folder: KeysOption = None,
    replace: Annotated[bool, typer.Option(
        "--replace", help="Also if this key is trusted already with another name or other dates, or "
        "its file there is damaged.")] = False,
) -> None:
    """Accept bundles signed by the public key in FILE, until it expires.

    The key signed its name and dates itself: a FILE in which they were altered
    is refused.
    """
    from toolchain.commands_ship import run_keys_trust

    run_keys_trust(file, key_folder, replace)
