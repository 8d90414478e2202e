"""A recipe's YAML changed in one place: comments, order and everything else stay, and the file appears whole."""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    """The file's text with `field` set to `value`, and the change as a unified diff. Raises RecipeError.

    The text is proven to be a recipe that differs from the old one in this field alone.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    before = path.read_text(encoding="utf-8")
    best: tuple[int, str] | None = None
    for mapping, sequence, offset in LAYOUTS:
        yaml = YAML()
        yaml.preserve_quotes, yaml.width = True, 4096
        yaml.indent(mapping=mapping, sequence=sequence, offset=offset)
        try:
            content = yaml.load(before)
        except YAMLError as error:
            raise RecipeError(f"{path}: cannot be edited in place: {str(error).splitlines()[0]}") from None
        _set(content, field, value, path)
        stream = io.StringIO()
        yaml.dump(content, stream)
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

    Raises RecipeError, with the file as it was, when the result would not be a valid recipe.
    """
    after, diff = edited(path, field, value)
    trial = path.with_name(f".{path.stem}.edited.yaml")
    try:
        write_text(trial, after)
        load_recipe(trial, (), architectures)
        write_text(path, after)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be written ({error.strerror}); the file is as it was") from None
    finally:
        trial.unlink(missing_ok=True)
    return diff


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
        flowing: Any = CommentedMap(value)
    elif isinstance(value, (list, tuple)):
        flowing = CommentedSeq(value)
    else:
        return value
    flowing.fa.set_flow_style()
    return flowing
