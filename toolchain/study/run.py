"""Running a study: one build after the other into one shared cache, the result rewritten after each."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from toolchain.build import build
from toolchain.console import log
from toolchain.errors import ToolchainError, WorkDirError
from toolchain.files import write_text
from toolchain.recipe.study import StudyFile
from toolchain.report.words import seconds
from toolchain.study.figures import Outcome, read_outcome
from toolchain.study.plan import Run
from toolchain.study.result import Failed, StudyResult, summed_up
from toolchain.workdir import WorkDir, locked, rank


def run_all(
    file: StudyFile, runs: Sequence[Run], out: Path, imports: Sequence[Path] = (), overrides: Sequence[str] = ()
) -> StudyResult:
    """Build every run that is not built yet; out/study.json, .md and .html always hold what is known so far.

    A run that ends with a ToolchainError is reported in the table and the others go on. With several processes
    (accelerate launch) it ends the study instead: the other ranks would wait for its stage for ever.
    Raises WorkDirError where `out` cannot be written or another build is using it.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    outcomes: dict[tuple[str, int], Outcome | Failed] = {}
    trained_s: list[float] = []
    for number, run in enumerate(runs, 1):
        start = time.monotonic()
        log(f"[{number}/{len(runs)}] {run.row}, seed {run.seed}")
        outcome: Outcome | Failed | None
        try:
            outcome, worked = _one(run, imports)
        except ToolchainError as error:
            if not alone:
                raise
            outcome, worked = Failed(str(error), error.exit_code), False
        if rank() != 0 or outcome is None:
            continue
        spent = time.monotonic() - start
        trained_s += [spent] * worked
        outcomes[run.row, run.seed] = outcome
        _write(summed_up(file, runs, outcomes, overrides), out)
        log(f"[{number}/{len(runs)}] {run.row}, seed {run.seed}: {_said(outcome)}, "
            f"{seconds(spent)}{_left(trained_s, len(runs) - number)}")
    return summed_up(file, runs, outcomes, overrides)


def _one(run: Run, imports: Sequence[Path]) -> tuple[Outcome | None, bool]:
    """Build one run: its figures (None on the secondary ranks), and whether any stage had to be made."""
    work = WorkDir(run.work, run.cache)
    if rank() != 0:
        build(run.recipe, work, run.base, run.roots, imports)
        return None, True
    with locked(run.work):
        report = build(run.recipe, work, run.base, run.roots, imports)
    assert report is not None
    folders = {stage.name: stage.folder for stage in work.stages}
    return read_outcome(report, folders, run.engine), not all(stage.cached for stage in work.stages)


def _said(outcome: Outcome | Failed) -> str:
    if isinstance(outcome, Failed):
        return f"failed: {outcome.message}"
    top1 = outcome.figures.get("top1")
    return f"top-1 {top1:.2f} %" if top1 is not None else "top-1 not measured here"


def _left(trained_s: Sequence[float], runs: int) -> str:
    """What the runs still to do may take: as long as those that were made this time, on the average."""
    if not trained_s or not runs:
        return ""
    return f"; about {seconds(runs * sum(trained_s) / len(trained_s))} for the other {runs}"


def _write(result: StudyResult, out: Path) -> None:
    """Rewrite the three files. Raises WorkDirError."""
    from toolchain.study.html import render_html  # jinja2 loads only when something is written
    from toolchain.study.markdown import render_markdown

    texts = {"json": result.to_json(), "md": render_markdown(result), "html": render_html(result)}
    for kind, text in texts.items():
        try:
            write_text(out / f"study.{kind}", text)
        except OSError as error:
            raise WorkDirError(f"{out / f'study.{kind}'}: cannot be written ({error.strerror}); free some space or "
                               "choose another --out, finished runs are kept") from None
