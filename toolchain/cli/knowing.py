"""The commands that say what there is: the recipe's schema, this machine, the number formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli.options import CacheOption, ImportOption, OutOption, RootOption, SetOption, app


@app.command(rich_help_panel="Know")
def schema() -> None:
    """Print the JSON Schema of recipes, for editors (toolchain schema > recipes/schema.json)."""
    import json

    from toolchain.recipe.schema import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=1))


@app.command(rich_help_panel="Know")
def doctor(json_: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False) -> None:
    """Say what this machine can build and run, and how to get the rest."""
    from toolchain.commands import run_doctor

    run_doctor(json_)


@app.command(rich_help_panel="Know")
def explain(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="formats")],
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="Whose network is shown in them.")] = None,
    set_: SetOption = None, imports: ImportOption = None, data_root: RootOption = None, out: OutOption = None,
    cache: CacheOption = None, json_: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what number formats from FP32 to INT4 can hold, and what is often told wrongly about them.

    With RECIPE: what its student in --out, or a fresh one, would lose in each, layer by layer. Nothing is trained.
    """
    from toolchain.commands import run_explain_formats
    from toolchain.errors import RecipeError

    if topic != "formats":
        raise RecipeError(f"found the topic '{topic}', expected formats: toolchain explain formats")

    run_explain_formats(recipe, set_ or [], imports or [], data_root, out, cache, json_)
