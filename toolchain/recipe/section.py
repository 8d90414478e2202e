"""What every section of a recipe is: frozen, and strict about its keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator


class Section(BaseModel):
    """Frozen, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, values: Any) -> Any:
        """pydantic would read true as 1: a number's field gets the word, which it refuses as it does any other."""
        if not isinstance(values, dict):
            return values
        numbers = {name for name, field in cls.model_fields.items()
                   if _is_number(field.annotation) and not _looks_itself(field.metadata)}
        return {key: _spelled(value) if key in numbers else value for key, value in values.items()}


def _is_number(annotation: Any) -> bool:
    kinds = _kinds(annotation)
    return bool not in kinds and bool(kinds & {int, float})


def _kinds(annotation: Any) -> set[Any]:
    """The types that values of a field may have: {int, NoneType} of `int | None`, {int} of a tuple of them."""
    if get_origin(annotation) is Annotated:
        kind, *more = get_args(annotation)
        return set() if _looks_itself(more) else _kinds(kind)
    if get_origin(annotation) is Literal:
        return {type(choice) for choice in get_args(annotation)}
    inner = get_args(annotation)
    return {kind for each in inner for kind in _kinds(each)} if inner else {annotation}


def _looks_itself(metadata: Iterable[Any]) -> bool:
    return any(isinstance(each, BeforeValidator) for each in metadata)


def _spelled(value: Any) -> Any:
    """`value` with booleans, its own or those that it lists, as words."""
    if isinstance(value, list | tuple):
        return [_spelled(each) for each in value]
    return str(value).lower() if isinstance(value, bool) else value


def method_name(value: Any) -> Any:
    """`calibrator: entropy` is short for `calibrator: {method: entropy}`."""
    return {"method": value} if isinstance(value, str) else value
