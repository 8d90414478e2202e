"""What the commands of the gate do, callable from Python with the same arguments."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.errors import NotEnoughEvidence, Regression, WorkDirError
from toolchain.files import deliver

if TYPE_CHECKING:
    from toolchain.check.finding import Tolerances


def run_baseline(folder: Path, out: Path | None = None) -> Path:
    """Write what the build in `folder` is into the file `out` (default: baselines/<recipe>.<device>.json).

    Returns the file. Raises ToolchainError, DataError, DigestMismatch or WorkDirError.
    """
    from toolchain.check.baseline import default_file, make_baseline
    from toolchain.check.finished_run import read_run

    run = read_run(folder)
    file, baseline = out or default_file(run), make_baseline(run)
    text = baseline.to_json()
    same = file.is_file() and file.read_bytes() == text.encode()
    deliver(file, text)
    print(f"{file}: {len(baseline.engines)} engines on {baseline.images.n:,} test images, {len(text.encode()):,} bytes"
          f"{', unchanged' if same else ''}")
    if doubted := [name for name, engine in baseline.engines.items() if engine.inconclusive]:
        print(f"the latency of {len(doubted)} engines was inconclusive, such as {doubted[0]}: "
              f"{'; '.join(baseline.engines[doubted[0]].inconclusive)}. A slower run will not be called a regression "
              "of them; build and write the baseline again on a quiet machine")
    return file


def run_check(
    folder: Path, baseline: Path, asked: Tolerances | None = None, junit: Path | None = None, github: bool = False,
    json_file: Path | None = None, everything: bool = False,
) -> int:
    """Hold the build in `folder` against `baseline` and print what was found.

    asked: what is tolerated; None: the defaults. junit, json_file: files to write. github: also print annotations, and
    add a table to the file that $GITHUB_STEP_SUMMARY names. everything: show the figures of what passes too.

    Returns 0. After everything is written, raises Regression or NotEnoughEvidence; DataError where the baseline has
    other test images.
    """
    from toolchain.check.baseline import load_baseline
    from toolchain.check.console_table import print_verdict
    from toolchain.check.finding import Tolerances
    from toolchain.check.finished_run import read_run
    from toolchain.check.judge import check
    from toolchain.check.verdict import Verdict, to_annotations, to_json, to_junit, to_markdown

    asked = asked or Tolerances()
    run, before = read_run(folder), load_baseline(baseline)
    verdict = Verdict(str(run.report.recipe.get("name")), str(baseline), asked, check(run, before, asked, baseline))
    wanted = {file: text for file, text in ((json_file, to_json), (junit, to_junit)) if file}
    unwritten = [error for file, text in wanted.items() if (error := _undelivered(file, text(verdict)))]
    print_verdict(verdict, everything)
    if github:
        sys.stdout.write(to_annotations(verdict))
        if (summary := os.environ.get("GITHUB_STEP_SUMMARY")) and (
                error := _unappended(Path(summary), to_markdown(verdict))):
            unwritten.append(error)
    sys.stdout.flush()
    more = "".join(f"\n{error}" for error in unwritten)
    if verdict.outcome == "regression":
        raise Regression("worse than the baseline:\n  " + "\n  ".join(f.line() for f in verdict.those("regression"))
                         + more)
    if verdict.outcome == "not enough evidence":
        missing = "\n  ".join(f.line() for f in verdict.those("not enough evidence")) or "nothing could be judged"
        raise NotEnoughEvidence(f"cannot be told from what was measured:\n  {missing}{more}")
    if unwritten:
        raise WorkDirError(more.strip())
    return 0


def _undelivered(file: Path, text: str) -> str | None:
    """What kept a file from being written; a verdict is worth more than its file."""
    try:
        deliver(file, text)
    except WorkDirError as error:
        return str(error)
    return None


def _unappended(file: Path, text: str) -> str | None:
    """The same, below what earlier steps wrote."""
    try:
        with file.open("a", encoding="utf-8") as summary:
            summary.write(text)
    except OSError as error:
        return f"$GITHUB_STEP_SUMMARY {file}: cannot be written ({error.strerror})"
    return None
