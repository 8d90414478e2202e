"""pydantic's validation errors as sentences an engineer can act on: place, value, what is allowed, nearest spelling."""

from __future__ import annotations

import re
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError

from toolchain.errors import nearest
from toolchain.recipe.schema import Recipe


def explain(
    error: ValidationError, data: Any, origin: dict[tuple[Any, ...], str], file: str, root: type[BaseModel] = Recipe
) -> str:
    """One line per mistake in `data`. origin: "file:line" (or "--set …") of each key; file: for keys without one.
    root: the section that `data` is, or that each of its values is.
    """
    messages = []
    for item in error.errors():
        where = _path(item["loc"], data, item["type"])
        place = origin.get(where) or _below(where, origin) or next(
            (origin[where[:n]] for n in range(len(where), 0, -1) if where[:n] in origin), file)
        name = ".".join(map(str, where)) or "recipe"
        messages.append(f"{place}: {name}: {_sentence(dict(item), where, root)}")
    return "\n".join(messages)


def _below(where: tuple[Any, ...], origin: dict[tuple[Any, ...], str]) -> str | None:
    """The place of a section that stands nowhere itself: of the first of its keys that an override set."""
    return next((place for key, place in origin.items() if where and key[: len(where)] == where), None)


def _path(loc: tuple[Any, ...], data: Any, kind: str) -> tuple[Any, ...]:
    """`loc` without the names of union members that pydantic puts into it."""
    path: list[Any] = []
    here = data
    for step, key in enumerate(loc):
        last = step == len(loc) - 1
        if isinstance(here, dict) and key in here:
            here = here[key]
        elif isinstance(here, list) and isinstance(key, int) and key < len(here):
            here = here[key]
        elif not (last and kind == "missing"):
            continue
        path.append(key)
    return tuple(path)


def _sentence(item: dict[str, Any], where: tuple[Any, ...], root: type[BaseModel]) -> str:
    kind, value, context = item["type"], item.get("input"), item.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = _fields(item["loc"][:-1], root)
        hint = nearest(str(where[-1]), allowed) or _elsewhere(where, root)
        return f"unknown key (value {_short(value)}); expected {', '.join(allowed)}{hint}"
    if kind == "missing":
        return "is required and missing"
    if kind == "union_tag_not_found":
        choices = [choice for _, m in _models(item["loc"], root) if (choice := _literal(m))]
        return (f"found {_short(value)}, which lacks the key {context['discriminator']}"
                f"{f': {_either(choices)}' if choices else ''}")
    if kind == "union_tag_invalid":
        allowed = re.findall(r"'([^']+)'", context["expected_tags"])
        key = context["discriminator"].strip("'")
        return f"{key}: found '{context['tag']}', expected {', '.join(allowed)}{nearest(context['tag'], allowed)}"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']+)'", context["expected"]) or [context["expected"]]
        return f"found {_short(value)}, expected {' or '.join(allowed)}{nearest(str(value), allowed)}"
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return f"found {_short(value)}, expected a mapping of keys"
    if kind == "too_short":
        return f"the list has {context['actual_length']} entries, expected at least {context['min_length']}"
    if kind == "tuple_type":
        return f"found {_short(value)}, expected a list{_as_list(value)}"
    if kind == "value_error":
        reason = str(context["error"])
        if isinstance(value, str) and reason.startswith("expected "):
            return f"found {_short(value)}, {reason}{nearest(value, reason[9:].split(', '))}"
        return reason
    return f"found {_short(value)}: {item['msg'][0].lower()}{item['msg'][1:]}"


def _as_list(value: Any) -> str:
    """', such as [features.0]' for a single value, or for entries that --set FIELD.0=… put where there is no list."""
    entries = list(value.values()) if isinstance(value, dict) and all(isinstance(k, int) for k in value) else [value]
    plain = entries and all(isinstance(entry, str) and entry not in ("true", "false") for entry in entries)
    return f", such as [{', '.join(map(str, entries))}]" if plain else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _fields(loc: tuple[Any, ...], root: type[BaseModel]) -> list[str]:
    """The keys allowed at `loc`."""
    return sorted({name for _, m in _models(loc, root) for name in m.model_fields}, key=str)


def _models(loc: tuple[Any, ...], root: type[BaseModel]) -> list[tuple[str | None, type[BaseModel]]]:
    """(tag, section) of each that may stand at `loc`, whose union members are named by their tag or discriminator."""
    models: list[tuple[str | None, type[BaseModel]]] = [(None, root)]
    for key in loc:
        if isinstance(key, int):
            continue
        chosen = [m for tag, m in models if tag == key or _literal(m) == key]
        if chosen:
            models = [(None, chosen[0])]
        else:
            fields = [m.model_fields[key] for _, m in models if key in m.model_fields]
            models = _members(fields[0].annotation) if fields else models
    return models


def _elsewhere(where: tuple[Any, ...], root: type[BaseModel]) -> str:
    """A ", did you mean 'train.optimizer.lr'?" clause where a section has the key that another one lacks, or ""."""
    found = dict.fromkeys(_named(str(where[-1]), root, ()))
    near = [path for path in found if path[: len(where) - 1] == where[:-1]] or list(found)
    same_choice = [path for path in near if path != where]
    return f", did you mean '{'.'.join(same_choice[0])}'?" if len(same_choice) == 1 else ""


def _named(key: str, model: type[BaseModel], place: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Where a section, or one below it, has a field of this name. Entries of a list go by the first."""
    found = [(*place, key)] if key in model.model_fields else []
    for name, field in model.model_fields.items():
        entry = ("0",) if any(get_origin(a) is tuple for a in (field.annotation, *get_args(field.annotation))) else ()
        for _, member in _members(field.annotation):
            found += _named(key, member, (*place, name, *entry))
    return found


def _either(choices: list[str]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}" if len(choices) > 1 else choices[0]


def _literal(model: type[BaseModel]) -> str | None:
    for key in ("source", "method", "policy", "runtime"):
        if key in model.model_fields:
            return str(get_args(model.model_fields[key].annotation)[0])
    return None


def _members(annotation: Any, tag: str | None = None) -> list[tuple[str | None, type[BaseModel]]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [(tag, annotation)]
    if get_origin(annotation) is Annotated:
        tag = next((m.tag for m in annotation.__metadata__ if isinstance(m, Tag)), tag)
        return _members(annotation.__origin__, tag)
    return [member for argument in get_args(annotation) for member in _members(argument, tag)]
