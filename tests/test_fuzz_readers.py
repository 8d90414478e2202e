"""Whatever lies in report.json, engine.json or a recipe: a sentence with an exit code, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from bundles import RECORD, tiny_run
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.engines.record import verify
from toolchain.errors import ToolchainError
from toolchain.recipe.load import load_recipe
from toolchain.report.schema import load_report

ROOT = Path(__file__).parents[1]
RECIPES = [yaml.safe_load((ROOT / "recipes" / name).read_text()) for name in ("vgg11_int8.yaml", "vgg11_pruned.yaml")]
values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6), lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)), max_leaves=8)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished build; examples write beside its report, and over its engine.json."""
    return tiny_run(tmp_path_factory.mktemp("fuzz") / "run")


def changed(content: Any, path: list[int], value: Any) -> Any:
    """`content` with what the steps of `path` lead to (into dicts and lists, round and round) replaced by `value`."""
    if not path or not isinstance(content, dict | list) or not content:
        return value
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    key = keys[path[0] % len(keys)]
    whole = dict(content) if isinstance(content, dict) else list(content)
    whole[key] = changed(content[key], path[1:], value)
    return whole


paths = st.lists(st.integers(0, 30), max_size=5)


@settings(max_examples=150)
@given(path=paths, value=values)
def test_no_report_makes_a_traceback(path: list[int], value: Any, place: Path) -> None:
    file = place / "changed.json"
    file.write_text(json.dumps(changed(json.loads((place / "report.json").read_text()), path, value)))
    try:
        load_report(file)
    except ToolchainError as told:
        assert str(file) in str(told)


@settings(max_examples=100)
@given(path=paths, value=values)
def test_no_engine_record_makes_a_traceback(path: list[int], value: Any, place: Path) -> None:
    folder = place / "engines" / str(RECORD["name"])
    (folder / "engine.json").write_text(json.dumps(changed(RECORD, path, value)))
    try:
        verify(folder)
    except ToolchainError as told:
        assert str(folder) in str(told)


@settings(max_examples=100)
@given(which=st.sampled_from(RECIPES), path=paths, value=values)
def test_no_recipe_makes_a_traceback(which: Any, path: list[int], value: Any, place: Path) -> None:
    file = place / "recipe.yaml"
    file.write_text(yaml.safe_dump(changed(which, path, value)))
    try:
        load_recipe(file)
    except ToolchainError as told:
        assert str(file) in str(told)


@settings(max_examples=100)
@given(name=st.sampled_from(["report.json", "engine.json", "recipe.yaml"]), content=st.binary(max_size=60) | st.text(
    "{}[]:,\"'&*!|>-# \n\t01eNa~%@\x00\x85", max_size=60).map(str.encode))
def test_no_bytes_make_a_traceback(name: str, content: bytes, place: Path) -> None:
    (place / "bytes").mkdir(exist_ok=True)
    (place / "bytes" / name).write_bytes(content)
    with pytest.raises(ToolchainError, match="bytes"):
        {"report.json": lambda: load_report(place / "bytes" / name), "engine.json": lambda: verify(place / "bytes"),
         "recipe.yaml": lambda: load_recipe(place / "bytes" / name)}[name]()


@pytest.mark.parametrize("name", ["report.json", "engine.json", "recipe.yaml"])
def test_endless_nesting_makes_no_traceback(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("[" * 100_000)
    with pytest.raises(ToolchainError):
        {"report.json": lambda: load_report(tmp_path / name), "engine.json": lambda: verify(tmp_path),
         "recipe.yaml": lambda: load_recipe(tmp_path / name)}[name]()


@pytest.mark.parametrize("last", ["a: *a8", "rows: *a8", "name: {<<: *a8}", "? *a8\n: x"])
def test_aliases_of_aliases_make_no_traceback(last: str, tmp_path: Path) -> None:
    bomb = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 10)}]\n" for n in range(9))
    (tmp_path / "recipe.yaml").write_text(bomb + last)
    with pytest.raises(ToolchainError, match="aliases"):
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("override", ["name=2020-99-99", "name=\0", "name=[[", "seed=" + "[" * 5000, "a" * 3000 + "=1", "=1", "..=1"])
def test_no_override_makes_a_traceback(override: str) -> None:
    with pytest.raises(ToolchainError):
        load_recipe(ROOT / "recipes/vgg11_int8.yaml", [override])
