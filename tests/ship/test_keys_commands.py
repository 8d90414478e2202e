"""`toolchain keys`: what a user types, and what is answered."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path

import pytest
from bundles import KEY, PRIVATE
from said import call

from toolchain.runner.trust import key_text
from toolchain.ship.keys import self_signed


def test_a_locked_key_signs_with_its_passphrase_from_a_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "words").write_text("open sesame\n")
    shutil.rmtree(tmp_path / "keys")
    assert call(capsys, "keys", "new", "vault", "--passphrase-file", tmp_path / "words", "--expires", "2999-12-31")[0] == 0
    code, shown = call(capsys, "ship", run, "--engine", "int8")
    assert code == 2 and "no terminal to ask" in shown
    assert call(capsys, "ship", run, "--engine", "int8", "--passphrase-file", tmp_path / "words")[0] == 0
    assert "vault" in (listed := call(capsys, "keys", "list")[1]) and "signs, trusted" in listed and "2999-12-31" in listed


def test_without_a_terminal_a_passphrase_comes_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = call(capsys, "keys", "new", "vault", "--passphrase", "--keys", tmp_path / "keys")
    assert code == 2 and "no terminal to ask for the key's passphrase" in shown and "--passphrase-file FILE" in shown
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("words", [("verify", "nope.bundle"), ("keys", "trust", "nope.pub")])
def test_a_file_that_is_not_there_is_a_mistake_of_the_command_line(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown = call(capsys, *words, "--keys", tmp_path)
    assert code == 2 and f"{words[-1]}: does not exist" in shown


def test_a_machine_that_only_verifies_lists_whom_it_trusts(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device = tmp_path / "device"
    device.mkdir()
    shutil.copy(tmp_path / "keys/workshop.pub", device)
    assert "workshop             not trusted" in call(capsys, "keys", "list", "--keys", device)[1]
    call(capsys, "keys", "trust", device / "workshop.pub", "--keys", device)
    assert "workshop             trusted " in call(capsys, "keys", "list", "--keys", device)[1]


def test_a_trusted_key_with_other_dates_is_replaced_only_when_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, last in (("old", KEY.expires), ("new", date(2030, 1, 1))):
        (tmp_path / f"{name}.pub").write_text(key_text(self_signed(PRIVATE, "workshop", KEY.created, last)))
    keys = ("--keys", tmp_path / "keys")
    assert call(capsys, "keys", "trust", tmp_path / "old.pub", *keys)[0] == 0
    code, shown = call(capsys, "keys", "trust", tmp_path / "new.pub", *keys)
    assert code == 2 and "2027-12-31" in shown and "2030-01-01" in shown and "--replace" in shown
    assert call(capsys, "keys", "trust", tmp_path / "new.pub", "--replace", *keys)[0] == 0
    assert "until 2030-01-01" in call(capsys, "keys", "list", *keys)[1]


def test_an_empty_folder_of_keys_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = call(capsys, "keys", "list", "--keys", tmp_path)
    assert code == 0 and "toolchain keys new NAME" in shown


def test_a_damaged_key_is_listed_beside_the_others_and_keeps_no_bundle_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, bundle = tmp_path / "keys", tmp_path / "a.bundle"
    (keys / "trusted/bad.pub").write_text("{")
    (keys / "worse.pub").write_text("{")
    code, shown = call(capsys, "keys", "list")
    assert code == 0 and "workshop             signs, trusted" in shown and shown.count("left out") == 0
    for name in ("trusted/bad.pub", "worse.pub"):
        assert f"damaged           {keys}/{name}: is no JSON" in shown and shown.count(f"{keys}/{name}") == 1
    assert call(capsys, "ship", run, "--engine", "int8", "--out", bundle)[0] == 0
    code, shown = call(capsys, "verify", bundle)
    assert code == 0 and f"left out: {keys}/trusted/bad.pub: " in shown and "holds, " in shown
    (keys / "trusted/workshop.pub").write_text("{")
    code, shown = call(capsys, "verify", bundle)
    assert code == 13 and "which is not trusted here" in shown
    assert f"toolchain keys trust {keys}/workshop.pub --replace" in shown
    assert call(capsys, "keys", "trust", keys / "workshop.pub", "--replace")[0] == 0
    assert call(capsys, "verify", bundle)[0] == 0


@pytest.mark.parametrize("day", ["tomorrow", "2027-02-30", "31.12.2027", ""])
def test_a_last_day_that_is_none_is_told_with_an_example(day: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = call(capsys, "keys", "new", "vault", "--expires", day, "--keys", tmp_path / "keys")
    assert code == 2 and f"found --expires {day}, expected a day as year-month-day, such as 2027-12-31" in shown
    assert not (tmp_path / "keys").exists()
