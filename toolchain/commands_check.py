"""What the commands of the gate do, callable from Python with the same arguments."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.errors import NotEnoughEvidence, RecipeError, Regression, WorkDirError
from toolchain.files import deliver

if TYPE_CHECKING:
    from toolchain.check.finding import Tolerances
    from toolchain.check.finished_run import Run

STDOUT = Path("-")


def run_baseline(folder: Path, out: Path | None = None, device: str | None = None) -> Path:
    """Write what the build in `folder` is into the file `out` (default: baselines/<recipe>.<device>.json;
    Path("-"): stdout). device: what it did on this one; None: on the machine that built it.

    Returns the file. Raises DataError, DigestMismatch or WorkDirError; DeviceError where golden answers failed there.
    """
    from toolchain.check.baseline import default_file, make_baseline, refuse_replaced

    if out and out != STDOUT:
        refuse_replaced(out)
    run = _run(folder, device)
    file, baseline = out or default_file(run), make_baseline(run)
    if out is None:
        refuse_replaced(file)
    text = baseline.to_json()
    same = file != STDOUT and file.is_file() and file.read_bytes() == text.encode()
    _deliver(file, text)
    name, told = ("the baseline", sys.stderr) if file == STDOUT else (file, sys.stdout)
    print(f"{name}: {len(baseline.engines)} engines on {baseline.images.n:,} test images, {len(text.encode()):,} bytes"
          f"{', unchanged' if same else ''}", file=told)
    if doubted := [name for name, engine in baseline.engines.items() if engine.inconclusive]:
        print(f"the latency of {len(doubted)} engines was inconclusive, such as {doubted[0]}: "
              f"{'; '.join(baseline.engines[doubted[0]].inconclusive)}. A slower run will not be called a regression "
              f"of them; build on a quiet machine with {run.on}--remeasure, and write the baseline again", file=told)
    return file


def run_check(
    folder: Path, baseline: Path, asked: Tolerances | None = None, junit: Path | None = None, github: bool = False,
    json_file: Path | None = None, everything: bool = False, device: str | None = None,
) -> int:
    """Hold the build in `folder` against `baseline` and print what was found.

    asked: what is tolerated; None: the defaults. junit, json_file: files to write; one may be Path("-"), which is
    stdout, and what people read goes to stderr then. github: also print annotations, and add a table to the file that
    $GITHUB_STEP_SUMMARY names. everything: show the figures of what passes too. device: what is judged is what it
    did on this one; None: on the machine that built it.

    Returns 0. After everything is written, raises Regression or NotEnoughEvidence; DataError where the baseline is
    of another device or has other test images.
    """
    from toolchain.check.baseline import load_baseline
    from toolchain.check.console_table import print_verdict
    from toolchain.check.finding import Tolerances
    from toolchain.check.judge import check, notices
    from toolchain.check.verdict import Verdict, refuse_replaced, to_annotations, to_json, to_junit, to_markdown

    if junit == json_file == STDOUT:
        raise RecipeError("--junit - and --json -: only one of them can go to stdout; name a file for the other")
    asked = asked or Tolerances()
    refuse_replaced(*(None if file == STDOUT else file for file in (json_file, junit)))
    run, before = _run(folder, device), load_baseline(baseline)
    name = f"{run.report.recipe.get('name')}{f' on {device}' if device else ''}"
    verdict = Verdict(name, str(baseline), asked, check(run, before, asked, baseline),
                      notices(run, before, asked))

    def show() -> None:
        piped = STDOUT in (junit, json_file)
        print_verdict(verdict, everything, stderr=piped)
        if github:
            print(to_annotations(verdict), end="", file=sys.stderr if piped else None, flush=True)

    writes: list[Callable[[], None]] = [
        partial(_deliver, file, text(verdict)) for file, text in ((json_file, to_json), (junit, to_junit)) if file]
    if github and (summary := os.environ.get("GITHUB_STEP_SUMMARY")):
        writes.append(partial(_append, Path(summary), to_markdown(verdict)))
    writes.append(partial(_print, show))
    unwritten = [error for write in writes if (error := _failed(write))]
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


def _run(folder: Path, device: str | None) -> Run:
    from toolchain.check.device_run import read_device_run
    from toolchain.check.finished_run import read_run

    return read_device_run(folder, device) if device else read_run(folder)


def _failed(write: Callable[[], None]) -> str | None:
    """What kept it from being written; a verdict is worth more than its file."""
    try:
        write()
    except WorkDirError as error:
        return str(error)
    return None


def _deliver(file: Path, text: str) -> None:
    """Raises WorkDirError."""
    if file == STDOUT:
        _print(partial(sys.stdout.write, text))
    else:
        deliver(file, text)


def _append(summary: Path, text: str) -> None:
    """Below what earlier steps wrote. Raises WorkDirError."""
    try:
        with summary.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise WorkDirError(f"$GITHUB_STEP_SUMMARY {summary}: cannot be written ({error.strerror})") from None


def _print(write: Callable[[], object]) -> None:
    """Raises WorkDirError where stdout cannot take it; a reader that has gone away, as of `| head`, is no error."""
    try:
        write()
        sys.stdout.flush()
    except BrokenPipeError:
        return
    except OSError as error:
        raise WorkDirError(f"stdout: cannot be written ({error.strerror}); send it to another place") from None
