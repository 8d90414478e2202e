"""devices.yaml: read, written, and its mistakes told with file and line."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolchain.cli import main
from toolchain.devices.file import Device, add, chosen, devices_file, load_devices, parsed, remove
from toolchain.errors import RecipeError

values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6), lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)), max_leaves=8)
TEXT = """# the bench in the corner
orin:
  host: 192.168.55.1   # by USB
  user: nvidia
xavier: {host: xavier.local, port: 2222, folder: /data/ours, python: /usr/bin/python3.10}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "devices.yaml"
    path.write_text(TEXT)
    return path


def refusal(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(RecipeError) as told:
        load_devices(path)
    return str(told.value)


def test_devices_are_read_with_their_defaults(file: Path) -> None:
    known = load_devices(file)
    assert known["orin"] == Device(host="192.168.55.1", user="nvidia", folder="~/.toolchain", python="python3")
    assert [device.address for device in known.values()] == ["ssh://nvidia@192.168.55.1", "ssh://xavier.local:2222"]


def test_a_device_is_added_and_removed_and_the_rest_stays_as_it_is(file: Path) -> None:
    add(file, "nano", {**parsed("ssh://me@10.0.0.7:22022"), "python": "python3.12", "runtime": None})
    assert file.read_text().startswith(TEXT[:60]) and "# by USB" in file.read_text()
    assert load_devices(file)["nano"] == Device(host="10.0.0.7", port=22022, user="me", python="python3.12")
    remove(file, "xavier")
    assert list(load_devices(file)) == ["orin", "nano"]
    with pytest.raises(RecipeError, match="has a device 'orin' already"):
        add(file, "orin", parsed("ssh://me@elsewhere"))


@pytest.mark.parametrize("address, found", [
    ("ssh://nvidia@orin", {"host": "orin", "user": "nvidia"}),
    ("orin", {"host": "orin"}),
    ("ssh://orin:2222/", {"host": "orin", "port": 2222}),
    ("ssh://a.b@[fe80::1%eth0]:22", {"host": "fe80::1%eth0", "port": 22, "user": "a.b"}),
    ("me@Orin", {"host": "Orin", "user": "me"}),  # as ~/.ssh/config writes it
])
def test_an_address_is_taken_apart(address: str, found: dict[str, str | int]) -> None:
    assert parsed(address) == found


@pytest.mark.parametrize("address", ["", "http://orin", "ssh://", "ssh://me@", "ssh://me@ho st", "ssh://a:b:c", "ssh://orin/folder"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(RecipeError, match="expected ssh://user@host|password"):
        parsed(address)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(RecipeError) as told:
        parsed("ssh://me:hunter2@orin")
    assert "password" in str(told.value) and "hunter2" not in str(told.value)


def test_mistakes_are_told_with_file_line_and_nearest_spelling(tmp_path: Path) -> None:
    path = tmp_path / "devices.yaml"
    assert refusal(path, "orin:\n  hsot: a\n  host: b\n") == (
        f"{path}:2: orin.hsot: unknown key (value 'a'); expected folder, host, key_file, port, python, runtime, user, did you mean 'host'?")
    assert f"{path}:1: orin.host: is required and missing" in refusal(path, "orin:\n  user: a\n")
    assert f"{path}:2: orin.host: found '-oProxyCommand=x', expected the name" in refusal(path, "orin:\n  host: -oProxyCommand=x\n")
    assert "orin.port: found 0" in refusal(path, "orin: {host: a, port: 0}\n")
    assert "orin.folder: found 'x/../y', expected a folder of its own" in refusal(path, "orin: {host: a, folder: x/../y}\n")
    assert "orin.runtime: found 'tensort', expected onnxruntime or tensorrt, did you mean 'tensorrt'?" in refusal(
        path, "orin: {host: a, runtime: tensort}\n")
    assert f"{path}:1: found the name 'a b'" in refusal(path, "a b: {host: a}\n")
    assert "found 'me@host', expected a mapping" in refusal(path, "orin: me@host\n")
    assert "the key stands twice" in refusal(path, "orin: {host: a}\norin: {host: b}\n")


def test_an_unknown_device_is_named_with_the_nearest(file: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="has no device 'orni', did you mean 'orin'"):
        chosen(file, ["orni"])
    with pytest.raises(RecipeError, match="add it: toolchain device add orin"):
        chosen(tmp_path / "none.yaml", ["orin"])


def test_the_file_of_the_folder_comes_before_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert devices_file() == tmp_path / "home" / ".config" / "toolchain" / "devices.yaml"
    (tmp_path / "devices.yaml").write_text(TEXT)
    assert devices_file() == Path("devices.yaml") and devices_file(Path("other")) == Path("other")


def test_devices_are_added_listed_and_removed_by_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for words in (["add", "orin", "ssh://nvidia@orin:2222", "--folder", "/data/ours"], ["list"], ["remove", "orin"], ["list"]):
        with pytest.raises(SystemExit) as stop:
            main(["device", *words])
        assert stop.value.code == 0
    added, listed, removed, empty = capsys.readouterr().out.strip().splitlines()
    assert added.endswith("orin is ssh://nvidia@orin:2222; see what it has: toolchain device probe orin")
    assert listed.split() == ["orin", "ssh://nvidia@orin:2222", "folder:", "/data/ours"]
    assert "orin is removed" in removed and "no devices; add one" in empty


@pytest.mark.parametrize("user, host", [("root", "on"), ("no", "orin"), ("y", "yes"), ("null", "0x10"), ("true", "1e3"), ("me", "1_000")])
def test_a_name_that_yaml_takes_for_something_else_is_written_so_that_it_is_read_again(user: str, host: str, tmp_path: Path) -> None:
    path = tmp_path / "devices.yaml"
    for name in ("on", "1", "orin"):
        add(path, name, parsed(f"ssh://{user}@{host}"))
    assert load_devices(path) == {name: Device(host=host, user=user) for name in ("on", "1", "orin")}
    remove(path, "on")
    assert list(load_devices(path)) == ["1", "orin"]


@pytest.mark.parametrize("text", ["", "\n\n", "# our devices\n"])
def test_a_file_without_devices_is_none_and_takes_the_first_one(text: str, tmp_path: Path) -> None:
    (path := tmp_path / "devices.yaml").write_text(text)
    assert load_devices(path) == {}
    add(path, "orin", parsed("ssh://me@orin"))
    assert path.read_text().startswith(text) and load_devices(path) == {"orin": Device(host="orin", user="me")}
    remove(path, "orin")
    assert path.read_text() == text and load_devices(path) == {}


def test_a_file_that_cannot_be_read_is_not_called_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "devices.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(RecipeError) as told:
        load_devices(tmp_path / "devices.yaml")
    assert "devices.yaml: cannot be read" in str(told.value) and "recipe" not in str(told.value)


@pytest.mark.parametrize("address", ["ssh://root:p@ss:w@rd@host", "ssh://root:p/ss@host", "root:@host", "http://root:p@ss@host"])
def test_no_part_of_a_password_is_repeated(address: str) -> None:
    with pytest.raises(RecipeError, match="has a password in it; take it out") as told:
        parsed(address)
    assert address not in str(told.value) and "ss" not in str(told.value).replace("password", "").replace("address", "").replace("ssh-copy-id", "")


@pytest.mark.parametrize("text, where", [
    ("orin:\n  host: a\n  password: hunter2\n", "3: orin.password"), ("orin:\n  host: a\n  sudo_pwd: hunter2\n", "3: orin.sudo_pwd"),
    ("orin:\n  host: root:hunter2@a\n", "2: orin.host"), ("orin: ssh://root:hunter2@a\n", "1: orin")])
def test_a_password_in_the_file_is_refused_and_not_repeated(text: str, where: str, tmp_path: Path) -> None:
    told = refusal(tmp_path / "devices.yaml", text)
    assert f"{where}: has a password in it; take it out" in told and "hunter2" not in told


@pytest.mark.parametrize("address, hint", [("::1", "ssh://[::1]"), ("ssh://me@fe80::1%eth0", "ssh://me@[fe80::1%eth0]")])
def test_an_ipv6_address_without_brackets_is_told_where_they_go(address: str, hint: str) -> None:
    with pytest.raises(RecipeError) as told:
        parsed(address)
    assert str(told.value).endswith(f"IPv6 addresses stand in brackets: {hint}")


def test_a_port_that_is_no_number_is_refused(tmp_path: Path) -> None:
    assert "orin.port: found True, expected a port from 1 to 65535" in refusal(tmp_path / "devices.yaml", "orin: {host: a, port: true}\n")


def test_what_yaml_takes_for_something_else_than_text_is_to_be_put_in_quotes(tmp_path: Path) -> None:
    told = refusal(tmp_path / "devices.yaml", "orin: {host: on, user: 1000}\n")
    assert "1: orin.host: found True, expected text; put it in quotes" in told and "1: orin.user: found 1000, expected text" in told
    assert "1: found the name '7', expected letters" in (told := refusal(tmp_path / "devices.yaml", "7: {host: a}\n")) and "quotes" in told


def test_an_unknown_device_names_some_of_many(tmp_path: Path) -> None:
    (path := tmp_path / "devices.yaml").write_text("".join(f"d{number}: {{host: h{number}}}\n" for number in range(3000)))
    with pytest.raises(RecipeError) as told:
        chosen(path, ["xavier"])
    assert "d0, d1," in str(told.value) and "(3000 in all: toolchain device list)" in str(told.value) and len(str(told.value)) < 400


@pytest.mark.parametrize("text, left", [
    ("a:\n  host: x  # one\n\n# of b\nb: {host: y}\n# last\n", "\n# of b\nb: {host: y}\n# last\n"),
    ("# of a\na:\n  host: x\n# last\n", "# of a\n# last\n"),
    ("b: {host: y}\na: {\n  host: x\n}\n# last", "b: {host: y}\n# last")])
def test_a_device_that_is_removed_takes_no_comment_along(text: str, left: str, tmp_path: Path) -> None:
    (path := tmp_path / "devices.yaml").write_text(text)
    remove(path, "a")
    assert path.read_text() == left


@pytest.mark.parametrize("text", ["{a: {host: x}, b: {host: y}}\n", "a: &same\n  host: x\nb:\n  <<: *same\n  host: y\n"])
def test_a_device_is_removed_from_a_file_of_any_style(text: str, tmp_path: Path) -> None:
    (path := tmp_path / "devices.yaml").write_text(text)
    remove(path, "a")
    assert load_devices(path) == {"b": Device(host="y")}


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.dictionaries(st.text(max_size=6), values | st.dictionaries(st.sampled_from(list(Device.model_fields)), values, max_size=4), max_size=3))
def test_no_file_makes_a_traceback(content: Any, tmp_path: Path) -> None:
    (tmp_path / "devices.yaml").write_text(yaml.safe_dump(content))
    try:
        load_devices(tmp_path / "devices.yaml")
    except RecipeError as told:
        assert "devices.yaml" in str(told)
