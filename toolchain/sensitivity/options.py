"""The words of `toolchain sensitivity` that are lists."""

from __future__ import annotations

from pydantic import ValidationError

from toolchain.errors import RecipeError, nearest
from toolchain.recipe.prune import Scan
from toolchain.sensitivity.file import KINDS, Kind


def read_kinds(of: str | None) -> tuple[Kind, ...]:
    """"weights,quantize" in the order of KINDS, each once; () where nothing is asked for. Raises RecipeError."""
    if of is None:
        return ()
    asked = [word.strip() for word in of.split(",")]
    for word in asked:
        if word not in KINDS:
            raise RecipeError(f"--of {of}: found '{word}', expected {', '.join(KINDS)} or several of them with commas"
                              f"{nearest(word, KINDS)}")
    return tuple(kind for kind in KINDS if kind in asked)


def read_scan(ratios: str | None, images: int | None) -> Scan:
    """The scan with these ratios ("0.25,0.5") and images; None: the section's default. Raises RecipeError."""
    given: dict[str, object] = {} if images is None else {"images": images}
    if ratios is not None:
        try:
            given["ratios"] = tuple(float(word) for word in ratios.split(","))
        except ValueError:
            raise RecipeError(f"--ratios {ratios}: expected numbers above 0 and below 1 with commas, as in "
                              "--ratios 0.25,0.5,0.75") from None
    try:
        return Scan.model_validate(given)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ").removeprefix("ratios: ")
        raise RecipeError(f"--ratios {ratios}: {reason}; give rising shares above 0 and below 1, as in "
                          "--ratios 0.25,0.5,0.75") from None
