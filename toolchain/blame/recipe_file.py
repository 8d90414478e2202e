"""A recipe's YAML changed in one place: comments, order and everything else stay, and the file appears whole."""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from toolchain.errors import RecipeError
from toolchain.files import write_text
from toolchain.recipe.load import load_recipe

LAYOUTS = ((2, 4, 2), (2, 2, 0), (4, 6, 4), (4, 4, 2))  # indents of mappings, of sequences, and of their dashes


def check_unchanged(path: Path, built: Mapping[str, Any], architectures: Sequence[str] = ()) -> None:
    """Refuse a recipe that is not the one a build was made from, or whose quantize section is another by now.

    built: the build's whole recipe, defaults written out. Raises RecipeError.
    """
    recipe = load_recipe(path, (), architectures)
    if recipe.name != built.get("name"):
        raise RecipeError(f"{path}: is the recipe '{recipe.name}', but the build was made from '{built.get('name')}'; "
                          "name that one's file")
    if (found := recipe.model_dump(mode="json")["quantize"]) != built.get("quantize"):
        known = built.get("quantize") or {}
        odd = next((key for key in {**found, **known} if found.get(key) != known.get(key)), "quantize")
        raise RecipeError(f"{path}: quantize.{odd} is not what the build was made with (the file was edited since, or "
                          "--set stood above it); build it as it is, then ask again")


def edited(path: Path, field: Sequence[str], value: Any) -> tuple[str, str]:
    """The file's text with `field` set to `value`, and the change as a unified diff; `apply` proves that nothing else
    changed by it. Raises RecipeError.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    before = path.read_text(encoding="utf-8")
    best: tuple[int, str] | None = None
    for mapping, sequence, offset in LAYOUTS:
        editor = YAML()
        editor.preserve_quotes, editor.width = True, 4096
        editor.indent(mapping=mapping, sequence=sequence, offset=offset)
        try:
            content = editor.load(before)
        except YAMLError as error:
            raise RecipeError(f"{path}: cannot be edited in place: {str(error).splitlines()[0]}") from None
        _set(content, field, value, path)
        stream = io.StringIO()
        editor.dump(content, stream)
        touched = sum(line[:1] in "+-" for line in difflib.unified_diff(before.splitlines(),
                                                                        stream.getvalue().splitlines()))
        if best is None or touched < best[0]:
            best = touched, stream.getvalue()
    assert best is not None
    after = best[1]
    diff = difflib.unified_diff(before.splitlines(), after.splitlines(), path.as_posix(), path.as_posix(), lineterm="")
    return after, "\n".join(diff)


def apply(path: Path, field: Sequence[str], value: Any, architectures: Sequence[str] = ()) -> str:
    """Write `value` into `field` of the recipe in `path`, atomically, and return the diff.

    Raises RecipeError, with the file as it was, when the result would not be a valid recipe, or would differ from the
    old one in anything but this field (an anchor may share it with another section).
    """
    before = load_recipe(path, (), architectures).model_dump(mode="json")
    after, diff = edited(path, field, value)
    trial = path.with_name(f".{path.stem}.edited.yaml")
    try:
        write_text(trial, after)
        found = load_recipe(trial, (), architectures).model_dump(mode="json")
        _check_alone(path, before, found, field, value)
        write_text(path, after)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be written ({error.strerror}); the file is as it was") from None
    finally:
        trial.unlink(missing_ok=True)
    return diff


def _check_alone(path: Path, before: Mapping[str, Any], after: Mapping[str, Any], field: Sequence[str], value: Any
                 ) -> None:
    """Refuse an edit that changed anything but `field`, or made something else of it than `value`."""
    name = ".".join(field)
    if other := [where for where in _differing(before, after) if where != name and not where.startswith(f"{name}.")]:
        raise RecipeError(f"{path}: the edit of {name} would also change {other[0]}, because the file writes both at "
                          "once; the file is as it was: write the edit by hand")
    written: Any = after
    for key in field:
        written = written[key]
    if written != value and not (isinstance(written, dict) and written.get("method") == value):
        raise RecipeError(f"{path}: {name} would read as {written}, expected {value}; the file is as it was: write the "
                          "edit by hand")


def _differing(before: Any, after: Any, where: str = "") -> list[str]:
    """Names of the innermost fields in which two dumped recipes differ."""
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        return [] if before == after else [where]
    keys = [str(key) for key in {**before, **after}]
    return [each for key in keys for each in _differing(
        before.get(key), after.get(key), f"{where}.{key}" if where else key)]


def needs_quotes(text: str) -> bool:
    """Whether YAML would read this string, unquoted in a list, as something else: `no` is false, `1.5` a number."""
    try:
        return bool(yaml.safe_load(f"[{text}]") != [text])
    except yaml.YAMLError:
        return True


def _set(content: Any, field: Sequence[str], value: Any, path: Path) -> None:
    from ruamel.yaml.comments import CommentedMap

    here = content
    for depth, key in enumerate(field[:-1]):
        child = here.get(key)
        if isinstance(child, str):  # `quantize: ptq` is short for `quantize: {method: ptq}`
            child = CommentedMap(method=child)
        elif child is None:
            child = CommentedMap(method="ptq") if key == "quantize" else CommentedMap()
        elif not isinstance(child, CommentedMap):
            raise RecipeError(f"{path}: {'.'.join(field[:depth + 1])} is no mapping; write the edit by hand")
        if here.get(key) is not child:
            here[key] = child
        here = child
    here[field[-1]] = _flow(value)


def _flow(value: Any) -> Any:
    """Lists and mappings in one line, as recipes write them."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if isinstance(value, Mapping):
        flowing: Any = CommentedMap({_scalar(key): _scalar(each) for key, each in value.items()})
    elif isinstance(value, (list, tuple)):
        flowing = CommentedSeq(map(_scalar, value))
    else:
        return _scalar(value)
    flowing.fa.set_flow_style()
    return flowing


def _scalar(value: Any) -> Any:
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    return DoubleQuotedScalarString(value) if isinstance(value, str) and needs_quotes(value) else value
