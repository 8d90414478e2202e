"""A finished build becomes a Report, and a Report becomes the three files a build leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain.errors import WorkDirError
from toolchain.files import write_text
from toolchain.recipe.schema import Recipe
from toolchain.report.fidelity import Fidelity, Taught
from toolchain.report.limits import check_limits
from toolchain.report.pruned import Pruning
from toolchain.report.quantized import Quantization
from toolchain.report.schema import (
    DataFacts,
    EngineResult,
    EnvironmentFacts,
    Epoch,
    LimitResult,
    Report,
    StageResult,
    TrainingRun,
)


def make_report(recipe: Recipe, environment: Mapping[str, Any], dataset: Mapping[str, Any],
                stages: Sequence[Mapping[str, Any]], engines: Sequence[Mapping[str, Any]],
                gaps: Mapping[str, Mapping[str, Any]] | None = None,
                limits: Sequence[LimitResult] | None = None,
                history: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
                fidelity: Mapping[str, Any] | None = None,
                taught: Mapping[str, Mapping[str, Any]] | None = None,
                pruning: Mapping[str, Any] | None = None,
                quantization: Mapping[str, Any] | None = None,
                unpruned: Sequence[Mapping[str, Any]] = (), own_file: Sequence[str] = ()) -> Report:
    """Join what the stages delivered into one Report.

    environment: `doctor.examine()`. dataset: {name, classes, train, val, test (image counts), split_sha256,
    calibration {source, images} or null, preprocess: preprocess.json}. stages: {name, key, cached, seconds}.
    engines: measured.json's records.
    gaps: engine name -> {max_abs, relative, argmax_agreement}. limits: null judges `recipe.limits` here.
    history: title of a training run -> its epochs {epoch, loss, val_top1_percent, seconds, parts}.
    fidelity: fidelity.json of its stage. taught: title of a training run -> its taught.json. pruning:
    pruned_facts.json of its stage. quantization: quantized_facts.json of its stage. unpruned:
    measured.json's records of engines of the network before pruning. own_file: "told" of the import stage's own.json.
    Raises pydantic.ValidationError where a stage delivered something else: that is a bug, not the user's mistake.
    """
    gaps = gaps or {}
    records = [EngineResult.model_validate({**e, "gap": gaps.get(e["name"], e.get("gap"))}) for e in engines]
    lessons = {title: Taught.model_validate(dict(facts)) for title, facts in (taught or {}).items()}
    runs = [TrainingRun(title=title, epochs=[Epoch.model_validate(dict(e)) for e in epochs], taught=lessons.get(title))
            for title, epochs in (history or {}).items()]
    return Report(
        recipe=recipe.model_dump(mode="json"),
        environment=EnvironmentFacts.model_validate(dict(environment)),
        data=DataFacts.model_validate(dict(dataset)),
        stages=[StageResult.model_validate(dict(s)) for s in stages],
        engines=records,
        limits=list(limits) if limits is not None else check_limits(recipe.limits, records),
        training=runs,
        fidelity=Fidelity.model_validate(dict(fidelity)) if fidelity else None,
        pruning=Pruning.model_validate(dict(pruning)) if pruning else None,
        quantization=Quantization.model_validate(dict(quantization)) if quantization else None,
        unpruned=[EngineResult.model_validate(dict(e)) for e in unpruned], own_file=list(own_file),
    )


def _write(path: Path, text: str) -> Path:
    """Write a report file. Raises WorkDirError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise WorkDirError(f"{path}: cannot be written ({error.strerror}); "
                           "free some space or choose another --out") from None
    return path


def write_report(
    report: Report, folder: Path, sheet: bytes | None = None, pruned_sheet: bytes | None = None
) -> dict[str, Path]:
    """Write report.json, report.md and report.html into `folder`; returns {"json", "md", "html"} -> path.

    sheet, pruned_sheet: the PNGs that `gradcam.sheet` of `report.fidelity` and of `report.pruning` name; report.html
    holds them, report.md links them by that name.
    Raises WorkDirError where the folder cannot be written.
    """
    from toolchain.report.html import render_html  # jinja2 and yaml load only when a report is written
    from toolchain.report.markdown import render_markdown

    texts = {"json": report.to_json(), "md": render_markdown(report), "html": render_html(report, sheet, pruned_sheet)}
    return {kind: _write(Path(folder) / f"report.{kind}", text) for kind, text in texts.items()}
