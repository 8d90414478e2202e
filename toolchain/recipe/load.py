"""Reading a recipe: its YAML, overrides, and every mistake named at once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from toolchain.errors import RecipeError
from toolchain.recipe.explain import explain
from toolchain.recipe.schema import OnnxModel, Recipe
from toolchain.recipe.yaml_file import Where, parse, read_yaml

BY_LAYER = "quantize.mixed.layers."
DISCRIMINATORS = ("source", "method", "policy", "runtime")
INDEX = re.compile(r"\[(\d+)\]")
EXAMPLES = {"engines": ", as in --set 'engines=[{runtime: onnxruntime, precision: int8}]'"}


def load_recipe(path: Path, overrides: Sequence[str] = (), architectures: Iterable[str] = ()) -> Recipe:
    """The validated recipe in the YAML file `path`, with `overrides` ("train.epochs=3") applied.

    architectures: names that --import added to the listed ones.
    Raises RecipeError naming file, line, field, value, what is allowed and the nearest spelling, for all mistakes.
    """
    data, lines = read_yaml(path)
    if "rows" in data and "model" not in data:
        raise RecipeError(f"{path}: this is a study, not a recipe: run `toolchain study {path}`")
    origin = {where: f"{path}:{line}" for where, line in lines.items()}
    context = {"architectures": tuple(architectures)}
    for override in overrides:
        _apply(data, override, origin, context)
    data = {key: value for key, value in data.items() if value is not None}  # `train:` with nothing below is left out
    try:
        return Recipe.model_validate(data, context=context)
    except ValidationError as error:
        raise RecipeError(explain(error, data, origin, str(path))) from None


def _apply(data: dict[str, Any], override: str, origin: dict[Where, str], context: dict[str, Any]) -> None:
    """Set one `a.b.c=value` in `data`, in place; the value is read as YAML."""
    field, equals, text = override.partition("=")
    if not equals or not field.strip():
        raise RecipeError(f"--set {override}: expected FIELD=VALUE, as in --set train.epochs=3")
    try:
        value = parse(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise RecipeError(f"--set {override}: '{text}' is not a YAML value") from None
    if INDEX.search(field):
        dotted = INDEX.sub(r".\1", field).strip()
        raise RecipeError(f"--set {override}: entries of a list are named by dots: --set {dotted}={text}")
    keys = _keys(field.strip())
    here: Any = data
    for depth, key in enumerate(keys[:-1]):
        try:
            child = here[key] if isinstance(here, list) else here.get(key)
        except (IndexError, TypeError, AttributeError):
            raise RecipeError(f"--set {override}: the recipe has no {_dotted(keys[:depth + 1])}") from None
        if isinstance(child, str):  # `quantize: ptq` is short for `quantize: {method: ptq}`
            child = {"policy" if key == "mixed" else "method": child}
        elif child is None:
            if isinstance(keys[depth + 1], int) and depth + 2 < len(keys):
                raise RecipeError(f"--set {override}: the recipe has no list {_dotted(keys[:depth + 1])}, so no entry "
                                  f"{keys[depth + 1]}; give the whole list{EXAMPLES.get(keys[depth], '')}")
            child = _default_choice(data, keys[:depth + 1], context)
        here[key] = child
        here = child
    try:
        here[keys[-1]] = value
    except (IndexError, TypeError):
        raise RecipeError(f"--set {override}: the recipe has no {field}") from None
    origin[tuple(keys)] = "--set " + override


def _dotted(keys: Sequence[Any]) -> str:
    return ".".join(map(str, keys))


def _keys(field: str) -> list[Any]:
    """The path of a field; what follows BY_LAYER is one key, since names of layers have dots (features.0)."""
    if field.startswith(BY_LAYER) and (layer := field.removeprefix(BY_LAYER)):
        return [*BY_LAYER.rstrip(".").split("."), layer]
    return [int(k) if k.isdigit() else k for k in field.split(".")]


def _default_choice(data: dict[str, Any], keys: list[Any], context: dict[str, Any]) -> dict[str, Any]:
    """What a section left out of the file stands for: only its discriminator (source, method), if it has one."""
    try:
        recipe = Recipe.model_validate(data, context=context)
    except ValidationError:  # some other mistake, named later: the plain defaults are the best guess
        recipe = Recipe.model_validate({"name": "defaults", "model": {"arch": "vgg11_bn"}})
    try:
        here: Any = recipe.model_dump()
        for key in keys:
            here = here[key]
    except (KeyError, IndexError, TypeError):
        return {}
    return {k: here[k] for k in DISCRIMINATORS if k in here} if isinstance(here, dict) else {}


def resolved_yaml(recipe: Recipe) -> str:
    """The recipe with every default written out, in pipeline order, as YAML that load_recipe accepts."""
    unused = {"train", "distill", "prune"} if isinstance(recipe.model, OnnxModel) else set()
    content = recipe.model_dump(mode="json", exclude=unused)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def data_roots(recipe_path: Path, data_root: Path | None) -> list[Path]:
    """Where relative dataset paths are looked up, in order: --data-root, else $TOOLCHAIN_DATA, else the user's cache
    folder (where downloads go); then the recipe's folder."""
    root = data_root or Path(os.environ.get("TOOLCHAIN_DATA") or Path.home() / ".cache" / "toolchain" / "data")
    return [root, recipe_path.parent]


def locate(path: str, base: Path, field: str) -> Path:
    """A file or folder that the recipe names: relative to the recipe's folder `base`, else to the current one.

    Raises RecipeError naming the field and both places.
    """
    for place in (base / path, Path(path)):
        if place.exists():
            return place
    raise RecipeError(f"{field}: '{path}' exists neither in {base} nor in the current folder; mend the path")
