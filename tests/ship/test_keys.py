"""Keys: made privately, listed, trusted, refused where somebody else may have them."""

from __future__ import annotations

import json
import stat
from datetime import date
from pathlib import Path

import pytest
from bundles import KEY, PRIVATE, STRANGER, TODAY
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.errors import BundleRefused, RecipeError, WorkDirError
from toolchain.runner.ed25519 import verified
from toolchain.runner.trust import Refused, key_text, read_key, trusted_keys
from toolchain.ship.keys import believed, chosen, damaged, locked, new_key, open_private, own_keys, self_signed, trust

LATER = date(2027, 12, 31)


def test_a_new_key_is_private_signs_and_is_trusted_here(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    key = new_key(folder, "workshop", LATER, today=TODAY)
    assert stat.S_IMODE((folder / "workshop.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert believed(folder) == {key.key_id: key} and own_keys(folder) == [key] and chosen(folder, None, TODAY) == key
    assert verified(key.public, open_private(folder, key).sign(b"m"), b"m")


def test_a_passphrase_locks_the_private_key(tmp_path: Path) -> None:
    key = new_key(tmp_path, "workshop", LATER, b"open sesame", TODAY)
    assert locked(tmp_path, key)
    assert verified(key.public, open_private(tmp_path, key, b"open sesame").sign(b"m"), b"m")
    with pytest.raises(RecipeError, match="passphrase is wrong"):
        open_private(tmp_path, key, b"open barley")
    with pytest.raises(RecipeError, match="locked by a passphrase"):
        open_private(tmp_path, key)


def test_a_passphrase_for_a_key_that_has_none_is_named(tmp_path: Path) -> None:
    key = new_key(tmp_path, "workshop", LATER, today=TODAY)
    assert not locked(tmp_path, key)
    with pytest.raises(RecipeError, match="has no passphrase"):
        open_private(tmp_path, key, b"x")


def test_a_private_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    key = new_key(tmp_path, "workshop", LATER, today=TODAY)
    (tmp_path / "workshop.key").chmod(0o640)
    with pytest.raises(RecipeError, match="0640, so others may read"):
        open_private(tmp_path, key)


def test_a_private_key_of_another_name_is_told_from_ours(tmp_path: Path) -> None:
    ours, theirs = (new_key(tmp_path, name, LATER, today=TODAY) for name in ("ours", "theirs"))
    (tmp_path / "ours.key").write_bytes((tmp_path / "theirs.key").read_bytes())
    assert ours != theirs
    with pytest.raises(RecipeError, match="is not the private half of ours.pub"):
        open_private(tmp_path, ours)


@pytest.mark.parametrize(("name", "expires", "told"), [
    ("../x", LATER, "expected letters"), ("", LATER, "expected letters"), ("x", date(2026, 11, 20), "has gone by")])
def test_a_bad_name_or_a_day_gone_by_makes_no_key(name: str, expires: date, told: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=told):
        new_key(tmp_path / "keys", name, expires, today=TODAY)
    assert not (tmp_path / "keys").exists()


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    new_key(tmp_path, "workshop", LATER, today=TODAY)
    before = (tmp_path / "workshop.key").read_bytes()
    with pytest.raises(RecipeError, match="exists already"):
        new_key(tmp_path, "workshop", LATER, today=TODAY)
    assert (tmp_path / "workshop.key").read_bytes() == before


def test_the_key_to_sign_with_is_named_where_there_are_several(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="holds no key to sign with"):
        chosen(tmp_path, None)
    first = new_key(tmp_path, "first", LATER, today=TODAY)
    new_key(tmp_path, "second", LATER, today=TODAY)
    assert chosen(tmp_path, "first", TODAY) == first
    with pytest.raises(RecipeError, match="--key first or second"):
        chosen(tmp_path, None, TODAY)
    with pytest.raises(RecipeError, match="no private key 'frist', did you mean 'first'"):
        chosen(tmp_path, "frist", TODAY)
    with pytest.raises(RecipeError, match="expired on 2027-12-31"):
        chosen(tmp_path, "first", date(2028, 1, 1))


def test_a_public_key_is_trusted_once_it_was_named(tmp_path: Path) -> None:
    (tmp_path / "their.pub").write_text(key_text(KEY))
    assert believed(tmp_path / "keys") == {}
    assert trust(tmp_path / "keys", tmp_path / "their.pub") == KEY
    assert believed(tmp_path / "keys") == {KEY.key_id: KEY} and own_keys(tmp_path / "keys") == []
    trust(tmp_path / "keys", tmp_path / "their.pub")  # again: nothing changes
    (tmp_path / "other.pub").write_text(key_text(self_signed(STRANGER, KEY.name, KEY.created, KEY.expires)))
    with pytest.raises(RecipeError, match="another key of this name"):
        trust(tmp_path / "keys", tmp_path / "other.pub")


@pytest.mark.parametrize(("field", "value", "told"), [
    ("key_id", "0" * 16, "does not belong"), ("public_key", "00" * 32, "does not belong"), ("public_key", "0", "no public key"),
    ("public_key", None, "no public key"), ("expires", "tomorrow", "no public key"), ("name", "\x1b[2J", "does not belong"),
    ("name", "other", "does not hold"), ("expires", "2999-12-31", "does not hold"), ("created", "2020-01-01", "does not hold"),
    ("signature", "00" * 64, "does not hold"), ("signature", "", "does not hold"), ("created", None, "no public key")])
def test_an_altered_public_key_is_refused(field: str, value: object, told: str, tmp_path: Path) -> None:
    (tmp_path / "their.pub").write_text(json.dumps({**json.loads(key_text(KEY)), field: value}))
    with pytest.raises((BundleRefused, RecipeError), match=told):
        trust(tmp_path / "keys", tmp_path / "their.pub")
    assert not (tmp_path / "keys").exists()


def test_a_key_of_an_unusable_name_is_refused_though_it_signed_it(tmp_path: Path) -> None:
    (tmp_path / "x.pub").write_text(key_text(self_signed(PRIVATE, "../../x", KEY.created, KEY.expires)))
    with pytest.raises(RecipeError, match="expected letters .* 64 at most, the first a letter or a digit"):
        trust(tmp_path / "keys", tmp_path / "x.pub")


def test_a_key_without_its_own_signature_is_refused_with_the_way_out(tmp_path: Path) -> None:
    content = json.loads(key_text(KEY))
    del content["signature"], content["created"]
    (tmp_path / "old.pub").write_text(json.dumps(content))
    with pytest.raises(BundleRefused, match="not signed by the key itself.*toolchain keys new NAME"):
        trust(tmp_path / "keys", tmp_path / "old.pub")


def test_a_trusted_key_takes_other_dates_or_another_name_only_when_told_to(tmp_path: Path) -> None:
    folder, file = tmp_path / "keys", tmp_path / "their.pub"
    file.write_text(key_text(KEY))
    trust(folder, file)
    longer = self_signed(PRIVATE, "attic", KEY.created, date(2030, 1, 1))
    file.write_text(key_text(longer))
    with pytest.raises(RecipeError, match="workshop of 2026-11-01 until 2027-12-31; .*attic of .* until 2030-01-01; .*--replace"):
        trust(folder, file)
    assert believed(folder) == {KEY.key_id: KEY}
    trust(folder, file, replace=True)
    assert believed(folder) == {KEY.key_id: longer} and [p.name for p in (folder / "trusted").iterdir()] == ["attic.pub"]


def test_two_trusted_files_that_say_different_things_about_a_key_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pub").write_text(key_text(KEY))
    (tmp_path / "b.pub").write_text(key_text(KEY))
    assert trusted_keys(tmp_path) == {KEY.key_id: KEY}
    (tmp_path / "b.pub").write_text(key_text(self_signed(PRIVATE, KEY.name, KEY.created, date(2030, 1, 1))))
    with pytest.raises(Refused, match="b.pub: .* until 2030-01-01.* already by a.pub .*2027-12-31.*delete one"):
        trusted_keys(tmp_path)


def test_the_private_half_is_never_trusted(tmp_path: Path) -> None:
    new_key(tmp_path / "here", "workshop", LATER, today=TODAY)
    with pytest.raises(RecipeError, match="is the private half of a key.*trust its public half, workshop.pub"):
        trust(tmp_path / "keys", tmp_path / "here/workshop.key")


def test_a_key_file_that_is_not_there_is_a_mistake_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "workshop.pub").write_text(key_text(KEY))
    with pytest.raises(RecipeError, match="does not exist, did you mean 'workshop.pub'"):
        trust(tmp_path / "keys", tmp_path / "workshp.pub")


def test_a_damaged_file_among_the_trusted_keys_is_named_makes_none_trusted_and_keeps_none_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (trusted := tmp_path / "trusted").mkdir()
    (trusted / "x.pub").write_text(key_text(KEY).replace("2027-12-31", "2999-12-31"))
    assert believed(tmp_path) == {}
    assert f"left out: {trusted}/x.pub: the key's signature of its own name" in (told := capsys.readouterr().err)
    assert "delete it, or trust an intact copy: toolchain keys trust FILE --replace" in told
    (trusted / "y.pub").write_text(key_text(KEY))
    assert believed(tmp_path, tell=False) == {KEY.key_id: KEY} and not capsys.readouterr().err
    with pytest.raises(Refused, match="x.pub"):  # on a device, which tells nobody
        trusted_keys(trusted)
    with pytest.raises(Refused, match="cannot be read"):
        read_key(tmp_path / "missing.pub")


def test_a_damaged_trusted_file_takes_no_part_and_is_replaced_only_when_told_to(tmp_path: Path) -> None:
    file, folder = tmp_path / "their.pub", tmp_path / "keys"
    file.write_text(key_text(KEY))
    (folder / "trusted").mkdir(parents=True)
    (folder / "trusted/other.pub").write_text("{")
    assert trust(folder, file) == KEY
    (folder / "trusted/workshop.pub").write_text("{")
    with pytest.raises(RecipeError, match="trusted/workshop.pub: is no JSON .*; .*their.pub takes its place with --replace"):
        trust(folder, file)
    assert believed(folder) == {}
    assert trust(folder, file, replace=True) == KEY and believed(folder) == {KEY.key_id: KEY}


def test_a_damaged_public_half_signs_nothing_and_its_copy_is_named(tmp_path: Path) -> None:
    new_key(tmp_path, "ours", LATER, today=TODAY)
    (tmp_path / "ours.pub").write_text("{")
    copy = f"{tmp_path}/trusted/ours.pub is an intact copy: copy it to {tmp_path}/ours.pub"
    for name in (None, "ours"):
        with pytest.raises(BundleRefused, match=f"ours.pub: is no JSON .*; {copy}$"):
            chosen(tmp_path, name, TODAY)
    other = new_key(tmp_path, "other", LATER, today=TODAY)
    assert chosen(tmp_path, "other", TODAY) == other and own_keys(tmp_path) == [other]
    with pytest.raises(BundleRefused, match=f"{copy}; or name another key: --key other"):  # which may not be the one meant
        chosen(tmp_path, None, TODAY)
    (tmp_path / "trusted/ours.pub").unlink()
    with pytest.raises(BundleRefused, match="copy to .*ours.pub what those have who trust this key.*delete ours.key too"):
        chosen(tmp_path, "ours", TODAY)


def test_a_cure_that_is_told_for_a_damaged_file_cures_it(tmp_path: Path) -> None:
    new_key(tmp_path, "ours", LATER, today=TODAY)
    (tmp_path / "trusted/ours.pub").write_text("{")
    (tmp_path / "stray.pub").write_text("{")
    ours, stray = (tmp_path / name for name in ("trusted/ours.pub", "stray.pub"))
    assert set(found := damaged(tmp_path)) == {ours, stray} and "it is not in use: delete it" in found[stray]
    assert f"{tmp_path}/ours.pub is an intact copy: toolchain keys trust {tmp_path}/ours.pub --replace" in found[ours]
    trust(tmp_path, tmp_path / "ours.pub", replace=True)
    assert set(damaged(tmp_path)) == {stray}


def test_the_public_half_is_that_of_the_private_one() -> None:
    assert KEY.public == PRIVATE.public_key().public_bytes_raw()


@settings(max_examples=60)
@given(content=st.binary(max_size=200) | st.dictionaries(
    st.sampled_from(["name", "key_id", "public_key", "created", "expires", "signature"]), st.text(max_size=5) | st.integers() | st.none(),
).map(lambda d: json.dumps(d).encode()))
def test_no_file_makes_the_reader_of_keys_fail(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed_keys"
    folder.mkdir(exist_ok=True)
    (folder / "x.pub").write_bytes(content)
    with pytest.raises(Refused):
        trusted_keys(folder)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "their.pub").write_text(key_text(KEY))
    with pytest.raises(WorkDirError, match="cannot be written"):
        new_key(tmp_path / "file", "workshop", LATER, today=TODAY)
    with pytest.raises(WorkDirError, match="cannot be written"):
        trust(tmp_path / "file", tmp_path / "their.pub")


def test_a_key_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "k.pub").write_text(key_text(KEY))
    assert read_key(tmp_path / "k.pub") == KEY
    assert (KEY.name, KEY.created, KEY.expires) == ("workshop", date(2026, 11, 1), date(2027, 12, 31))
