"""devices.yaml: what the name of a device stands for. It holds no secret: keys stay where SSH has them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from toolchain.errors import RecipeError, WorkDirError, nearest
from toolchain.files import write_text
from toolchain.recipe.explain import explain
from toolchain.recipe.load import read_yaml
from toolchain.recipe.section import Section

FILE, HOME = "devices.yaml", Path("~/.config/toolchain/devices.yaml")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ADDRESS = re.compile(r"(?:ssh://)?(?:(?P<user>[^@:/\s]+)(?P<secret>:[^@]*)?@)?"
                     r"(?P<host>\[[0-9A-Za-z:.%]+\]|[^@:/\s\[\]]+)(?::(?P<port>\d{1,5}))?/?")


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._:%-]*|::[0-9A-Fa-f:.]*", text):
        raise ValueError("expected the name or address of a machine, or a Host of ~/.ssh/config")
    return text


def _user(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._@-]*\$?", text):
        raise ValueError("expected the name of a user")
    return text


def _folder(text: str) -> str:
    if not re.fullmatch(r"(~/|/)[^\0\n]*[^/\0\n]", text) or ".." in text.split("/"):
        raise ValueError("expected a folder of its own there, from / or ~/ on")
    return text


def _program(text: str) -> str:
    if not text.strip() or not text.isprintable() or text.startswith("-"):
        raise ValueError("expected a program, such as python3 or /usr/bin/python3.10")
    return text


class Device(Section):
    """One device. What is left out is what ~/.ssh/config says, or SSH's own default.

    folder: where everything of ours lies there. python: which python3 runs the runner. runtime: what runs .onnx files
    there; left out: TensorRT where it is installed, else ONNX Runtime. key_file: the private key to use, on this
    machine; left out: those of ~/.ssh and of the agent.
    """

    host: Annotated[str, AfterValidator(_host)]
    port: int | None = Field(None, ge=1, le=65535)
    user: Annotated[str, AfterValidator(_user)] | None = None
    folder: Annotated[str, AfterValidator(_folder)] = "~/.toolchain"
    python: Annotated[str, AfterValidator(_program)] = "python3"
    runtime: Literal["onnxruntime", "tensorrt"] | None = None
    key_file: str | None = None

    @property
    def address(self) -> str:
        """As a person would write it: ssh://user@host:port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{f'{self.user}@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"


def devices_file(asked: Path | None = None) -> Path:
    """`asked`, else devices.yaml of the current folder, else the user's own."""
    if asked is not None:
        return asked
    return Path(FILE) if Path(FILE).is_file() else HOME.expanduser()


def load_devices(path: Path) -> dict[str, Device]:
    """The devices in the file, by name; none where there is no file. Raises RecipeError with file and line."""
    if not path.exists():
        return {}
    data, lines = read_yaml(path, "names of devices, each with host, user, …")
    origin = {where: f"{path}:{line}" for where, line in lines.items()}
    wrong = [f"{origin.get((name,), path)}: found the name '{name}', expected letters, digits, '.', '_' and '-'"
             for name in data if not NAME.fullmatch(str(name))]
    try:
        if wrong:
            raise RecipeError("\n".join(wrong))
        return TypeAdapter(dict[str, Device]).validate_python(data)
    except ValidationError as error:
        raise RecipeError(explain(error, data, origin, str(path), Device)) from None


def chosen(path: Path, names: Iterable[str]) -> dict[str, Device]:
    """The devices called `names`, each once. Raises RecipeError for a name that the file does not have."""
    known = load_devices(path)
    for name in names:
        if name not in known:
            raise RecipeError(f"{path}: has no device '{name}'{nearest(name, known)}; "
                              + (f"expected {', '.join(known)}" if known else f"add it: toolchain device add {name} "
                                                                              "ssh://user@host"))
    return {name: known[name] for name in names}


def parsed(address: str) -> dict[str, str | int]:
    """Host, port and user of ssh://user@host:port. Raises RecipeError."""
    found = ADDRESS.fullmatch(address.strip())
    if found and found["secret"] is not None:
        raise RecipeError("device add: the address has a password in it; leave it out: devices are entered with keys "
                          "alone (ssh-copy-id puts yours there)")
    if not found:
        raise RecipeError(f"device add: found '{address}', expected ssh://user@host or ssh://user@host:port")
    given = {"host": found["host"].strip("[]"), "port": found["port"] and int(found["port"]), "user": found["user"]}
    return {key: value for key, value in given.items() if value is not None}


def add(path: Path, name: str, settings: Mapping[str, str | int | None]) -> Device:
    """Write a device into the file; what else stands there stays as it is. Raises RecipeError, WorkDirError."""
    if not NAME.fullmatch(name):
        raise RecipeError(f"device add: found the name '{name}', expected letters, digits, '.', '_' and '-'")
    if name in load_devices(path):
        raise RecipeError(f"{path}: has a device '{name}' already; remove it first: toolchain device remove {name}")
    given = {key: value for key, value in settings.items() if value is not None}
    try:
        device = Device.model_validate(given)
    except ValidationError as error:
        raise RecipeError(explain(error, given, {}, f"device add {name}", Device)) from None
    _edit(path, name, given)
    return device


def remove(path: Path, name: str) -> None:
    """Take a device out of the file. Raises RecipeError, WorkDirError."""
    chosen(path, [name])
    _edit(path, name, None)


def _edit(path: Path, name: str, content: Mapping[str, object] | None) -> None:
    from ruamel.yaml import YAML

    editor, stream = YAML(), io.StringIO()
    editor.preserve_quotes, editor.width = True, 4096
    data = (editor.load(path.read_text(encoding="utf-8")) if path.exists() else None) or {}
    if content is None:
        del data[name]
    else:
        data[name] = dict(content)
    editor.dump(data, stream)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, stream.getvalue())
    except OSError as error:
        raise WorkDirError(f"{path}: cannot be written ({error.strerror}); choose another --devices") from None
