"""The commands about devices: who they are, and what is put on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli.options import FileOption, app
from toolchain.cli.shipping import KeysOption

device = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help=(
    "Add, list, probe, tidy and remove devices, and see whom they trust."))
app.add_typer(device, name="device", rich_help_panel="Ship")

NamesArgument = Annotated[list[str], typer.Argument(metavar="DEVICE...", help="Names of devices, as in devices.yaml")]


@device.command("add")
def device_add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it, such as orin")],
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="ssh://user@host or ssh://user@host:port")],
    folder: Annotated[str | None, typer.Option(
        "--folder", help="Where everything of ours lies there  \\[default: ~/.toolchain]")] = None,
    python: Annotated[str | None, typer.Option(
        "--python", metavar="PROGRAM", help="Its python3, with numpy and a runtime  \\[default: python3]")] = None,
    runtime: Annotated[str | None, typer.Option(
        "--runtime", metavar="NAME", help="What runs .onnx files there: onnxruntime or tensorrt  \\[default: TensorRT "
        "where it is]")] = None,
    key_file: Annotated[str | None, typer.Option(
        "--key-file", metavar="FILE", help="Private key to enter with  \\[default: those of ~/.ssh]")] = None,
    file: FileOption = None,
) -> None:
    """Write a device into devices.yaml. Nothing is contacted: `device probe` does that first.

    Commands that contact it enter with SSH keys alone, and only if its host key
    is known; `device probe` shows one that is not, with the line that accepts it.

    \b
      toolchain device add orin ssh://nvidia@192.168.55.1
      toolchain device probe orin
    """
    from toolchain.commands_devices import run_add

    run_add(file, name, address, {"folder": folder, "python": python, "runtime": runtime, "key_file": key_file})


@device.command("list")
def device_list(file: FileOption = None) -> None:
    """Show the devices that are known here. None is asked anything."""
    from toolchain.commands_devices import run_list

    run_list(file)


@device.command("probe")
def device_probe(
    names: NamesArgument, file: FileOption = None,
    json_: Annotated[bool, typer.Option("--json", help="Print every fact as JSON.")] = False,
) -> None:
    """Ask devices what they have: processor, GPU, runtimes, power mode, free disk, and what is deployed there."""
    from toolchain.commands_devices import run_probe

    run_probe(file, names, json_)


@device.command("tidy")
def device_tidy(
    names: NamesArgument, file: FileOption = None,
    days: Annotated[float, typer.Option("--days", min=0, help="Keep what was used in the last so many days.")] = 30,
) -> None:
    """Make room on devices: remove files, jobs and earlier runners that nothing asked for in a while.

    What is deployed stays, in both slots, and so do keys and TensorRT's timing
    cache. What a later command needs again is sent again.
    """
    from toolchain.commands_devices import run_tidy

    run_tidy(file, names, days)


@device.command("keys")
def device_keys(
    names: NamesArgument, file: FileOption = None,
    gone: Annotated[str | None, typer.Option(
        "--remove", metavar="KEY", help="Trust this key no longer: its id, name or file there, or its .pub "
        "file here, also where it was never trusted.")] = None,
    new: Annotated[str | None, typer.Option(
        "--trust", metavar="KEY", help="Trust this key, also if it was revoked: its .pub file here, or its id or name "
        "among the keys trusted here.")] = None,
    key_folder: KeysOption = None,
) -> None:
    """Show whose bundles devices accept, revoke a key there, or trust one.

    `deploy` has a device trust the key of the bundle it brings, and says so: who
    may enter by SSH decides. It refuses a key that was revoked there until that
    is trusted by --trust. What is deployed already stays in use.
    """
    from toolchain.commands_devices import run_device_keys

    run_device_keys(file, names, gone, new, key_folder)


@device.command("remove")
def device_remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a device, as in devices.yaml")],
    file: FileOption = None,
) -> None:
    """Take a device out of devices.yaml. What lies on the device stays there."""
    from toolchain.commands_devices import run_remove

    run_remove(file, name)


@app.command(rich_help_panel="Ship")
def deploy(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `toolchain ship` wrote.")],
    names: NamesArgument,
    slot: Annotated[str | None, typer.Option(
        "--slot", metavar="A|B", help="Where to put it  \\[default: the slot that is not in use]")] = None,
    key_folder: KeysOption = None, file: FileOption = None,
) -> None:
    """Put a bundle into use on devices, all at once; each goes on as it was where anything does not hold.

    The bundle is verified here and there, unpacked into the slot that is not in
    use, and used from the moment on when it gave its golden answers; the old
    one stays for `toolchain rollback`. A cut connection is resumed. Where a
    device fails the others go on, and the exit code is 14.

    \b
      toolchain deploy build/vgg11_int8/vgg11_int8.int8.tensorrt.sm87.bundle orin
    """
    from toolchain.commands_devices import run_deploy

    run_deploy(file, bundle, names, slot, key_folder)


@app.command(rich_help_panel="Ship")
def rollback(names: NamesArgument, file: FileOption = None) -> None:
    """Use what was deployed before on devices, once it has given its golden answers again."""
    from toolchain.commands_devices import run_rollback

    run_rollback(file, names)
