"""What every section of a recipe is: frozen, and strict about its keys."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Frozen, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def method_name(value: Any) -> Any:
    """`calibrator: entropy` is short for `calibrator: {method: entropy}`."""
    return {"method": value} if isinstance(value, str) else value
