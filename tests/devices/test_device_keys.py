"""Whom a device trusts, as `toolchain device keys` lists and revokes it: the runner's own folder of keys, no line to it."""

from __future__ import annotations

import asyncio
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from bundles import KEY, STRANGER
from device_shop import Near, command, listed

from toolchain.devices import many, trusted
from toolchain.devices.file import Device
from toolchain.errors import BundleRefused
from toolchain.runner.keys import keys
from toolchain.runner.place import Place
from toolchain.runner.trust import key_text
from toolchain.ship.keys import self_signed

GUEST = self_signed(STRANGER, "guest", KEY.created, KEY.expires)


class Folder(Near):
    """A device whose folder lies here."""

    folder = ""

    async def write(self, files: dict[str, bytes]) -> None:
        for path, content in files.items():
            Path(path).write_bytes(content)

    async def remove(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)


@pytest.fixture
def folder(shop: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The keys of the device orin: workshop's and a damaged one."""
    place = Place(shop / "device")
    place.keys.mkdir(parents=True)
    (place.keys / f"{KEY.key_id}.pub").write_text(key_text(KEY))
    (place.keys / "bad.pub").write_text("{")
    listed(shop, orin=Device(host="orin"))

    async def ready(link: Near) -> dict[str, Any]:
        return {}

    async def ask(link: Near, word: str, *more: str) -> dict[str, Any]:
        assert word == "keys" and more[:1] in ((), ("--remove",))
        return keys(place, more[1:])

    monkeypatch.setattr(Folder, "folder", str(place.root))
    monkeypatch.setattr(many, "Link", Folder)
    monkeypatch.setattr(trusted, "ready", ready)
    monkeypatch.setattr(trusted, "ask", ask)
    return place.keys


def lying(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.pub")}


def test_a_listing_changes_nothing_and_names_the_damaged_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert command("device", "keys", "orin") == 0
        told = capsys.readouterr().out
        assert "bad.pub: keeps every bundle out; remove it: " in told and "no longer" not in told
        assert f"{KEY.key_id}  workshop " in told and told.count(f"  {KEY.key_id}.pub\n") == 1
    assert lying(folder) == {"bad.pub", f"{KEY.key_id}.pub"}


def test_a_damaged_file_is_removed_by_its_name_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "worse.pub").write_text("}")
    assert command("device", "keys", "orin", "--remove", "bad.pub") == 0 and not list(folder.glob("*.revoked"))
    assert lying(folder) == {"worse.pub", f"{KEY.key_id}.pub"}
    assert command("device", "keys", "orin", "--remove", "None") == 2 and command("device", "keys", "orin", "--remove", "") == 2
    assert lying(folder) == {"worse.pub", f"{KEY.key_id}.pub"}


@pytest.mark.parametrize("word", ["a.pub", "./b.pub", KEY.key_id, "workshop", "here.pub", "{shop}/here.pub"])
def test_a_key_goes_with_all_its_files_by_whatever_it_is_called(
    word: str, folder: Path, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a.pub").write_text(key_text(KEY))
    (folder / "guest.pub").write_text(key_text(GUEST))
    for name in ("b.pub", "here.pub"):
        (shop / name).write_text(key_text(KEY))
    monkeypatch.chdir(shop)
    assert command("device", "keys", "orin", "--remove", word.format(shop=shop)) == 0
    assert lying(folder) == {"bad.pub", "guest.pub"}


def test_what_the_device_calls_a_key_counts_before_a_file_here(folder: Path, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "guest.pub").write_text(key_text(GUEST))
    (shop / "guest.pub").write_text(key_text(KEY))
    monkeypatch.chdir(shop)
    assert command("device", "keys", "orin", "--remove", "guest.pub") == 0
    assert lying(folder) == {"bad.pub", f"{KEY.key_id}.pub"}


def test_a_path_to_no_key_is_refused_and_removes_nothing(folder: Path, shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("device", "keys", "orin", "--remove", shop / "none.pub") == 2
    assert "none.pub, which is no file here; expected a public key" in capsys.readouterr().err
    (shop / "bad.pub").write_text("{")
    assert command("device", "keys", "orin", "--remove", shop / "bad.pub") == 13
    assert "name the key by its id" in capsys.readouterr().err
    assert lying(folder) == {"bad.pub", f"{KEY.key_id}.pub"}


def test_of_two_keys_of_a_name_none_is_removed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "other.pub").write_text(key_text(self_signed(STRANGER, KEY.name, KEY.created, date(2030, 1, 1))))
    assert command("device", "keys", "orin", "--remove", "workshop") == 14
    told = capsys.readouterr().err
    assert "several keys called workshop; remove one by its id: " in told and KEY.key_id in told and GUEST.key_id in told
    assert len(lying(folder)) == 3


@pytest.mark.parametrize("word", ["{shop}/here.pub", KEY.key_id, "workshop"])
def test_a_revoked_key_is_not_brought_back_until_it_is_trusted_by_name(
    word: str, folder: Path, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shop / "here.pub").write_text(key_text(KEY))
    link = Folder("orin", Device(host="orin"))
    assert command("device", "keys", "orin", "--remove", KEY.key_id) == 0
    assert f"  {KEY.key_id}  revoked; to trust it again: toolchain device keys orin --trust {KEY.key_id}" in capsys.readouterr().out
    for _ in range(2):
        with pytest.raises(BundleRefused, match=r"orin: the key workshop .* was revoked there, so nothing was sent"):
            asyncio.run(trusted.bring(link, KEY))  # type: ignore[arg-type]
    asyncio.run(trusted.bring(link, GUEST))  # type: ignore[arg-type]
    assert command("device", "keys", "orin", "--trust", word.format(shop=shop)) == 0
    told = capsys.readouterr().out
    assert f"{KEY.key_id}  workshop" in told and "  revoked; " not in told
    asyncio.run(trusted.bring(link, KEY))  # type: ignore[arg-type]
    assert lying(folder) == {"bad.pub", f"{KEY.key_id}.pub", f"{GUEST.key_id}.pub"}


def test_a_leaked_key_is_revoked_where_it_never_was_by_its_file_here(
    folder: Path, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shop / "leaked.pub").write_text(key_text(GUEST))
    for word in (shop / "leaked.pub", GUEST.key_id):  # the second time it is known to be revoked
        assert command("device", "keys", "orin", "--remove", word) == 0
        assert f"orin: {word} is trusted no longer" in capsys.readouterr().out
    with pytest.raises(BundleRefused, match="was revoked there, so nothing was sent"):
        asyncio.run(trusted.bring(Folder("orin", Device(host="orin")), GUEST))  # type: ignore[arg-type]
    assert lying(folder) == {"bad.pub", f"{KEY.key_id}.pub"}


@pytest.mark.parametrize("words", [("--trust", "nobody"), ("--trust", KEY.key_id, "--remove", KEY.key_id)])
def test_a_key_that_is_not_here_is_not_trusted_and_one_thing_is_done_at_a_time(words: tuple[str, ...], folder: Path) -> None:
    assert command("device", "keys", "orin", *words) == 2
    assert lying(folder) == {"bad.pub", f"{KEY.key_id}.pub"}
