"""What no recipe, study or list of devices may be as a YAML file, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from toolchain.devices.file import load_devices
from toolchain.errors import RecipeError
from toolchain.recipe.load import load_recipe
from toolchain.recipe.study import load_study
from toolchain.recipe.yaml_file import MOST_ENTRIES, parse

READERS: list[Callable[[Path], Any]] = [load_recipe, load_study, load_devices]
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30))
MERGED = "a0: &a0 {k: v}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 30))


def refusal(read: Callable[[Path], Any], path: Path) -> str:
    with pytest.raises(RecipeError) as told:
        read(path)
    return str(told.value)


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
@pytest.mark.parametrize("text", [BOMB, MERGED, "a: &a [*a]\n"], ids=["lists", "merged", "itself"])
def test_aliases_that_stand_for_more_than_memory_holds_are_refused_unread(
    read: Callable[[Path], Any], text: str, tmp_path: Path
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    assert refusal(read, path) == (f"{path}: stands for more than 100,000 entries once its aliases (*name) are written "
                                   "out; write out the few that are meant")


def test_an_override_is_no_way_around_it(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: a\nmodel: {arch: vgg11}\n")
    assert "is not a YAML value" in refusal(lambda file: load_recipe(file, ["data={" + BOMB.strip().replace("\n", ", ") + "}"]), path)


def test_entries_count_as_often_as_aliases_repeat_them() -> None:
    row = f"[{', '.join('x' * 99)}]"  # 100 entries; {a: row, b: [n rows]} has 104 + 100 n: itself, both names, b's list
    fit = (MOST_ENTRIES - 104) // 100
    assert len(parse(f"a: &a {row}\nb: [{', '.join(['*a'] * fit)}]")["b"]) == fit
    with pytest.raises(yaml.YAMLError, match="more than"):
        parse(f"a: &a {row}\nb: [{', '.join(['*a'] * (fit + 1))}]")


def test_a_few_aliases_are_welcome(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: a\nmodel: {arch: vgg11}\nengines:\n- {runtime: tensorrt_rtx, precision: fp16, batch: &b {max: 8}}\n"
                                     "- {runtime: tensorrt_rtx, precision: int8, batch: *b}\n")
    assert [engine.batch.max for engine in load_recipe(tmp_path / "r.yaml").engines or ()] == [8, 8]


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_a_picture_or_a_folder_is_told_as_what_it_is(read: Callable[[Path], Any], tmp_path: Path) -> None:
    (tmp_path / "report.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert refusal(read, tmp_path / "report.png") == (
        f"{tmp_path}/report.png: cannot be read: it holds no text (UTF-8), expected a YAML file")
    assert refusal(read, tmp_path) == f"{tmp_path}: cannot be read: it is a folder, expected a YAML file; name one in it"
