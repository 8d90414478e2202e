"""devices.yaml: what the name of a device stands for. It holds no secret: keys stay where SSH has them."""

from __future__ import annotations

import io
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from toolchain.errors import RecipeError, nearest
from toolchain.files import deliver
from toolchain.recipe.explain import explain
from toolchain.recipe.load import read_yaml
from toolchain.recipe.section import Section

FILE, HOME = "devices.yaml", Path("~/.config/toolchain/devices.yaml")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ADDRESS = re.compile(r"(?:ssh://)?(?:(?P<user>[^@:/\s]+)@)?"
                     r"(?P<host>\[[0-9A-Za-z:.%]+\]|[^@:/\s\[\]]+)(?::(?P<port>\d{1,5}))?/?")
SECRET = re.compile(r"(?:[a-z]+://)?[^@/\s]*:(?!//).*@.*")  # a password in an address
SECRETS = re.compile(r"pass|pwd|secret|token", re.IGNORECASE)  # names of fields that would hold one
NO_SECRET = "take it out: devices are entered with keys alone (ssh-copy-id puts yours there)"
SHOWN = 10  # names, where one is not found


def _text(given: Any) -> Any:
    if isinstance(given, (bool, int, float)):  # as YAML reads on, no, 1e3
        raise ValueError(f"found {given}, expected text; put it in quotes")
    return given


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._:%-]*|::[0-9A-Fa-f:.]*", text):
        raise ValueError("expected the name or address of a machine, or a Host of ~/.ssh/config")
    return text


def _user(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._@-]*\$?", text):
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


def _port(given: Any) -> Any:
    if isinstance(given, bool):  # which Python takes for 0 or 1
        raise ValueError(f"found {given}, expected a port from 1 to 65535")
    return given


class Device(Section):
    """One device. What is left out is what ~/.ssh/config says, or SSH's own default.

    folder: where everything of ours lies there. python: which python3 runs the runner. runtime: what runs .onnx files
    there; left out: TensorRT where it is installed, else ONNX Runtime. key_file: the private key to use, on this
    machine; left out: those of ~/.ssh and of the agent.
    """

    host: Annotated[str, BeforeValidator(_text), AfterValidator(_host)]
    port: Annotated[int | None, BeforeValidator(_port)] = Field(None, ge=1, le=65535)
    user: Annotated[str | None, BeforeValidator(_text), AfterValidator(_user)] = None
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
    if not path.exists() or _blank(path):
        return {}
    data, lines = read_yaml(path, "names of devices, each with host, user, …")
    origin = {where: f"{path}:{line}" for where, line in lines.items()}
    wrong = [f"{origin.get((name,), origin.get((str(name),), path))}: {_misnamed(name)}" for name in data
             if not isinstance(name, str) or not NAME.fullmatch(name)]
    wrong += [f"{origin.get(where, path)}: {'.'.join(map(str, where))}: has a password in it; {NO_SECRET}"
              for where in _secrets(data)]
    if wrong:
        raise RecipeError("\n".join(wrong))
    try:
        return TypeAdapter(dict[str, Device]).validate_python(data)
    except ValidationError as error:
        raise RecipeError(explain(error, data, origin, str(path), Device)) from None


def _misnamed(name: Any) -> str:
    quotes = "" if isinstance(name, str) else "; put it in quotes"
    return f"found the name '{name}', expected letters, digits, '.', '_' and '-'{quotes}"


def _blank(path: Path) -> bool:
    """Whether nothing stands in the file, or comments alone."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return all(line.strip() == "" or line.lstrip().startswith("#") for line in text.splitlines())


def _secrets(data: Mapping[Any, Any]) -> Iterator[tuple[Any, ...]]:
    """Where a password stands, which no message may repeat."""
    for name, device in data.items():
        for field, value in device.items() if isinstance(device, dict) else [(None, device)]:
            if (field not in Device.model_fields and SECRETS.search(str(field))) or (
                    isinstance(value, str) and SECRET.fullmatch(value)):
                yield (name,) if field is None else (name, field)


def chosen(path: Path, names: Iterable[str]) -> dict[str, Device]:
    """The devices called `names`, each once. Raises RecipeError for a name that the file does not have."""
    known = load_devices(path)
    for name in names:
        if name not in known:
            raise RecipeError(f"{path}: has no device '{name}'{nearest(name, known)}; "
                              + (f"expected {_some(known)}" if known else f"add it: toolchain device add {name} "
                                                                              "ssh://user@host"))
    return {name: known[name] for name in names}


def _some(names: Mapping[str, Device]) -> str:
    more = f" … ({len(names)} in all: toolchain device list)" if len(names) > SHOWN else ""
    return ", ".join(list(names)[:SHOWN]) + more


def parsed(address: str) -> dict[str, str | int]:
    """Host, port and user of ssh://user@host:port. Raises RecipeError."""
    address = address.strip()
    if SECRET.fullmatch(address):
        raise RecipeError(f"device add: the address has a password in it; {NO_SECRET}")
    found = ADDRESS.fullmatch(address)
    if not found:
        user, at, host = address.removeprefix("ssh://").rstrip("/").rpartition("@")
        hint = f"; IPv6 addresses stand in brackets: ssh://{user}{at}[{host}]" if _is_ipv6(host) else ""
        raise RecipeError(f"device add: found '{address}', expected ssh://user@host or ssh://user@host:port{hint}")
    given = {"host": found["host"].strip("[]"), "port": found["port"] and int(found["port"]), "user": found["user"]}
    return {key: value for key, value in given.items() if value is not None}


def _is_ipv6(text: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False


def add(path: Path, name: str, settings: Mapping[str, str | int | None]) -> Device:
    """Write a device into the file; what else stands there stays as it is. Raises RecipeError, WorkDirError."""
    if not NAME.fullmatch(name):
        raise RecipeError(f"device add: {_misnamed(name)}")
    if name in load_devices(path):
        raise RecipeError(f"{path}: has a device '{name}' already; remove it first: toolchain device remove {name}")
    given = {key: value for key, value in settings.items() if value is not None}
    try:
        device = Device.model_validate(given)
    except ValidationError as error:
        raise RecipeError(explain(error, given, {}, f"device add {name}", Device)) from None
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    deliver(path, _edited(text, name, given), "--devices")
    return device


def remove(path: Path, name: str) -> None:
    """Take a device out of the file; what else stands there stays as it is. Raises RecipeError, WorkDirError."""
    chosen(path, [name])
    text = path.read_text(encoding="utf-8")
    left = _without(text, name)
    deliver(path, _edited(text, name, None) if left is None else left, "--devices")


def _without(text: str, name: str) -> str | None:
    """The text less the lines of the device; None where it does not stand on lines of its own."""
    entries: Any = yaml.compose(text, yaml.SafeLoader)
    key, value = next(pair for pair in entries.value if pair[0].value == name)
    lines = text.splitlines(keepends=True)
    left = "".join(lines[: key.start_mark.line] + lines[_last_line(value) + 1 :])
    try:
        same = (yaml.safe_load(left) or {}) == {key: one for key, one in yaml.safe_load(text).items() if key != name}
    except yaml.YAMLError:  # another device's settings were these
        return None
    return left if same else None


def _last_line(node: Any) -> int:
    """Of what stands there: a block's own end is where the next one begins, behind the comments between them."""
    if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
        return int(node.end_mark.line)
    last = node.value[-1]
    return _last_line(last[1] if isinstance(last, tuple) else last)


def _edited(text: str, name: str, content: Mapping[str, object] | None) -> str:
    """The text with the device written into it; None: with the device taken out."""
    from ruamel.yaml import YAML

    editor, stream = YAML(), io.StringIO()
    editor.preserve_quotes, editor.width = True, 4096
    found = editor.load(text)
    data = found or {}
    if content is None:
        del data[name]
    else:
        data[_quoted(name)] = {field: _quoted(value) for field, value in content.items()}
    editor.dump(data, stream)
    comments = text if found is None else ""  # which belong to nothing yet
    return comments + ("\n" if comments and not comments.endswith("\n") else "") + stream.getvalue()


def _quoted(value: object) -> object:
    """In quotes where it would be read as something else than text: a host that is called on, or 0x10."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if not isinstance(value, str):
        return value
    try:
        plain = yaml.safe_load(value) == value
    except (yaml.YAMLError, ValueError):
        plain = False
    return value if plain else DoubleQuotedScalarString(value)
