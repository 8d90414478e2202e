"""What `validate` and `plan` do, callable from Python with the same arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolchain.commands import imported
from toolchain.errors import RecipeError, ToolchainError
from toolchain.recipe.load import data_roots, load_recipe
from toolchain.steps.early import refuse_early
from toolchain.workdir import WorkDir


def run_validate(paths: Sequence[Path], overrides: Sequence[str] = (), imports: Sequence[Path] = ()) -> None:
    """Print of each recipe that it can be built, as far as it and the files it names tell.

    Raises RecipeError or DataError with every mistake of all files.
    """
    architectures = imported(imports)
    wrong: list[ToolchainError] = []
    for path in paths:
        try:
            recipe = load_recipe(path, overrides, architectures)
            refuse_early(path, recipe, overrides)
        except ToolchainError as error:
            wrong.append(error)
        else:
            print(f"{path}: valid recipe '{recipe.name}'")
    if wrong:
        kind = next((type(error) for error in wrong if isinstance(error, RecipeError)), type(wrong[0]))
        raise kind("\n".join(map(str, wrong)))


def run_plan(
    path: Path, overrides: Sequence[str] = (), imports: Sequence[Path] = (), data_root: Path | None = None,
    out: Path | None = None, cache: Path | None = None, needs: bool = False,
) -> int:
    """Print the stages of a build without running one. needs: also what each reads.

    Returns 0, or the exit code of what is missing. Raises RecipeError or DataError for what the recipe itself tells.
    """
    from toolchain.build import build
    from toolchain.data import to_download
    from toolchain.steps.plan_table import print_plan

    recipe = load_recipe(path, overrides, imported(imports))
    refuse_early(path, recipe, overrides, here=True)
    roots = data_roots(path, data_root)
    work = WorkDir(out or Path("build") / recipe.name, cache, dry=True)
    missing: ToolchainError | None = None
    try:
        build(recipe, work, path.parent, roots, imports)
    except ToolchainError as error:
        missing = error
    folder = to_download(recipe.data, roots)
    download = (recipe.data.source, folder) if folder else None
    print_plan(f"{recipe.name} in {work.out}", work.stages, needs, download, str(missing) if missing else None)
    return missing.exit_code if missing else 0
