"""Reading YAML that others wrote: with line numbers, each key once, and no more than a person would write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from toolchain.errors import RecipeError

Where = tuple[Any, ...]
MOST_ENTRIES = 100_000  # with aliases written out; our largest recipe has some hundred


def read_yaml(
    path: Path, expected: str = "a mapping of sections (name, data, model, …)"
) -> tuple[dict[str, Any], dict[Where, int]]:
    """The mapping in a YAML file and the line of each of its keys. Raises RecipeError, saying what was `expected`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe; the shipped ones are in recipes/") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: cannot be read: it holds no text (UTF-8), expected a YAML file") from None
    except IsADirectoryError:
        raise RecipeError(f"{path}: cannot be read: it is a folder, expected a YAML file; name one in it") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}") from None
    lines: dict[Where, int] = {}
    try:
        data = parse(text, lines)
    except RecursionError:
        raise RecipeError(f"{path}: nested too deeply") from None
    except yaml.reader.ReaderError as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else f"{path}"
        told = getattr(error, "problem", None) or error
        raise RecipeError(f"{place}: {told}" if isinstance(error, _Mistake) else f"{place}: not valid YAML: {told}"
                          ) from None
    if not isinstance(data, dict):
        found = "an empty file" if data is None else type(data).__name__
        raise RecipeError(f"{path}: expected {expected}, found {found}")
    return data, lines


def parse(text: str, lines: dict[Where, int] | None = None) -> Any:
    """What a YAML text says. lines: filled with the line of each key; keys that stand twice are refused then.

    Raises yaml.YAMLError, ValueError (a date that is none) or RecursionError. A few aliases of aliases may stand for
    more than memory holds: they are counted before anything is made of them.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _entries(node, {}) > MOST_ENTRIES:
            raise _Mistake(problem=f"stands for more than {MOST_ENTRIES:,} entries once its aliases (*name) are "
                                   "written out; write out the few that are meant")
        if lines is not None:
            _note_lines(node, (), lines)
        return loader.construct_document(node)
    finally:
        loader.dispose()


class _Mistake(yaml.MarkedYAMLError):
    """Valid YAML that we refuse: `problem` says why."""


def _entries(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """How many nodes there are at and below `node`, each as often as aliases repeat it. known: those counted already.

    An alias inside what it names has no end; it is refused as that.
    """
    if node not in known:
        known[node] = MOST_ENTRIES + 1  # met again while it is counted: within itself
        below = [child for pair in node.value for child in pair] if isinstance(node, yaml.MappingNode) else (
            node.value if isinstance(node, yaml.SequenceNode) else [])
        known[node] = 1 + sum(_entries(child, known) for child in below)
    return known[node]


def _note_lines(node: yaml.Node, where: Where, lines: dict[Where, int]) -> None:
    """Fill `lines` for every key below `node`; refuse duplicate keys, which YAML would silently merge."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Mistake(problem="a key must be a word, found a list or a mapping", problem_mark=key.start_mark)
            here = (*where, key.value)
            if here in lines:
                raise _Mistake(problem=f"{'.'.join(map(str, here))}: the key stands twice (first on line "
                                       f"{lines[here]}); keep one", problem_mark=key.start_mark)
            lines[here] = key.start_mark.line + 1
            _note_lines(value, here, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*where, index)] = value.start_mark.line + 1
            _note_lines(value, (*where, index), lines)
