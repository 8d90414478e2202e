"""report.html: one self-contained page; it loads nothing from anywhere and runs no script.

Names in a report (classes, engines, paths, the recipe's own strings) may hold HTML; jinja2 escapes them all. Only the
SVG of `plot` is trusted, and it escapes its texts itself.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from toolchain.report import (
    boundaries,
    contract,
    devices,
    how,
    notices,
    plot,
    pruned_words,
    quantized_words,
    taught,
    training,
    validity,
    words,
)
from toolchain.report.html_pruned import pruned_section
from toolchain.report.limits import asks, broken, found_words, matrix, weight_share
from toolchain.report.quantized_pages import quantized_section
from toolchain.report.schema import EngineResult, LimitResult, Report

FOLDER = Path(__file__).parent
VERDICTS = {True: ("good", "✓"), False: ("bad", "✗"), None: ("plain", "–")}


def _labels(engines: Sequence[EngineResult]) -> dict[str, str]:
    """The shortest label that tells the engines of a plot apart: precision, then runtime, then target."""
    runtimes = {e.runtime for e in engines}
    pairs = Counter((e.precision, e.runtime) for e in engines if not e.unpruned)
    labels = {}
    for e in engines:
        label = e.precision.upper() + (f" {words.runtime_name(e.runtime)}" if len(runtimes) > 1 else "")
        label += f" {e.target}" if pairs[e.precision, e.runtime] > 1 else ""
        labels[e.name] = f"unpruned {label}" if e.unpruned else label
    return labels


def _tooltip(e: EngineResult) -> str:
    latency = e.latency_ms
    return (f"{e.name}: top-1 {words.percent(e.top1_percent)} % ({words.interval(e.top1_interval) or 'no interval'}), "
            f"p50 {words.milliseconds(latency.p50 if latency else None)} ms, weights {words.size(e.weight_bytes)}")


def _plots(report: Report) -> list[Markup]:
    """The accuracy plot for a screen and for a phone; empty when nothing was measured."""
    shown = [e for e in [*report.engines, *report.unpruned] if e.latency_ms and e.top1_percent is not None]
    labels = _labels(shown)
    points = [plot.Point(labels[e.name], _tooltip(e), e.precision, e.runtime, e.latency_ms.p50, e.latency_ms.p95,
                         e.top1_percent, low, high, float(e.weight_bytes or 0))
              for e in shown if e.latency_ms and e.top1_percent is not None
              for low, high in [e.top1_interval or (None, None)]]
    if not points:
        return []
    phone = [p._replace(label="unpruned " * e.unpruned + e.precision.upper())
             for p, e in zip(points, shown, strict=True)]
    return [Markup(plot.accuracy_plot(points, 1040, 470, "plot wide")),
            Markup(plot.accuracy_plot(phone, 380, 400, "plot narrow"))]


def _legend(report: Report) -> list[dict[str, Any]]:
    runtimes = dict.fromkeys(e.runtime for e in report.engines if e.measured)
    return [{"name": words.runtime_name(r),
             "mark": Markup('<svg viewBox="0 0 16 16" aria-hidden="true">'
                            + plot.shape(plot.SHAPES.get(r, "circle"), 8, 8, 95, "mark") + "</svg>")} for r in runtimes]


def _row(e: EngineResult, report: Report, best: EngineResult | None) -> dict[str, Any]:
    latency, speedup = e.latency_ms, e.speedup_vs_fp32
    share = None if e.unpruned else weight_share(e, report.engines)
    tone = "" if speedup is None or speedup.low is None or speedup.high is None else (
        "good" if speedup.low > 1 else "bad" if speedup.high < 1 else "")
    return {
        "name": e.name, "precision": e.precision, "runtime": words.place(e),
        "target": e.target.replace("+", " + "), "measured": e.measured,
        "best": e is best and tone == "good",
        "unmeasured": words.unmeasured(e),
        "top1": words.percent(e.top1_percent), "top1_interval": words.interval(e.top1_interval),
        "top5": words.percent(e.top5_percent), "agreement": words.percent(e.agreement_percent),
        "p50": words.milliseconds(latency.p50 if latency else None),
        "spread": words.spread(latency) + validity.mark(e),
        "copies": words.copies(e.transfer_ms),
        "speedup": words.times(speedup.value if speedup else None), "speedup_interval": words.speedup_interval(speedup),
        "speedup_tone": tone,
        "weights": words.size(e.weight_bytes), "share": f"{share:.2f}×" if share is not None else "",
        "engine_bytes": words.size(e.engine_bytes), "deflated": words.deflated(e),
        "memory": words.size(e.peak_memory_bytes), "kept": contract.realised(e),
        "compute": words.compute_words(e), "gap": words.gap_words(e.gap), "path": e.path or words.NOTHING,
        "sha256": e.sha256 or words.NOTHING,
    }


def _storage(report: Report) -> list[dict[str, Any]]:
    """Bars: weight bytes and engine bytes of each engine, in percent of the largest of all."""
    engines = [*report.engines, *report.unpruned]
    most = max((max(e.weight_bytes or 0, e.engine_bytes or 0) for e in engines), default=0) or 1
    return [{"name": e.name, "precision": e.precision, "runtime": words.place(e),
             "weights": round(100 * (e.weight_bytes or 0) / most, 2),
             "engine": round(100 * (e.engine_bytes or 0) / most, 2),
             "text": " / ".join(map(words.size, (e.weight_bytes, e.engine_bytes, e.deflate_bytes)))} for e in engines]


def _strips(report: Report) -> dict[str, Any]:
    """p50, p95 and p99 of each timed engine as percent of a shared log axis."""
    timed = [e for e in [*report.engines, *report.unpruned] if e.latency_ms]
    if not timed:
        return {"rows": [], "ticks": []}
    low = math.log10(min(e.latency_ms.p50 for e in timed if e.latency_ms)) - 0.06
    high = math.log10(max(e.latency_ms.p99 for e in timed if e.latency_ms)) + 0.06

    def at(milliseconds: float) -> float:
        return round(100 * (math.log10(milliseconds) - low) / (high - low), 2)

    rows = [{"name": e.name, "precision": e.precision, "runtime": words.place(e),
             "p50": at(lat.p50), "p95": at(lat.p95), "p99": at(lat.p99),
             "text": " / ".join(words.milliseconds(v) for v in (lat.p50, lat.p95, lat.p99))}
            for e in timed for lat in [e.latency_ms] if lat]
    ticks = plot.log_ticks(10**low, 10**high, most=7)
    return {"rows": rows, "ticks": [{"at": at(t), "text": plot.tick_text(t)} for t in ticks]}


def _throughput(report: Report) -> dict[str, Any]:
    swept = [(e, {t.batch: t.images_per_s for t in e.throughput}) for e in report.engines if e.throughput]
    batches = sorted({batch for _, found in swept for batch in found})
    return {"batches": batches, "rows": [
        {"precision": e.precision, "runtime": words.runtime_name(e.runtime),
         "values": [f"{found[b]:,.0f}" if b in found else words.NOTHING for b in batches]} for e, found in swept]}


def _limit(result: LimitResult | None) -> dict[str, Any]:
    if result is None:
        return {"tone": "none", "mark": "", "found": "", "asks": ""}
    tone, mark = VERDICTS[result.held]
    found = "not checked" if result.found is None and result.held is None else found_words(result)
    return {"tone": tone, "mark": mark, "found": found, "asks": asks(result)}


def _limits(report: Report) -> dict[str, Any]:
    """Broken limits in words, then every limit of every engine as a table, and why some were not checked."""
    columns, rows = matrix(report.limits)
    engines = {e.name: e for e in report.engines}
    lines = [{"precision": engines[name].precision if name in engines else name,
              "runtime": words.runtime_name(engines[name].runtime) if name in engines else "",
              "target": engines[name].target.replace("+", " + ") if name in engines else "",
              "cells": [(limit, _limit(found.get(limit))) for limit in columns]} for name, found in rows.items()]
    reasons = dict.fromkeys(str(r.reason) for r in report.limits if r.held is None)
    return {"columns": columns, "rows": lines, "broken": broken(report.limits), "reasons": "; ".join(reasons)}


def _taught(report: Report, sheet: bytes | None) -> dict[str, Any] | None:
    """What the page says of student and teacher; the picture sheet is held by the page itself."""
    found = report.fidelity
    if found is None:
        return None
    maps, jitter, engines = found.gradcam, found.jitter, {e.name: e for e in report.engines}
    return {
        "intro": taught.intro(found), "titles": taught.ENGINE_TITLES, "rows": taught.engine_rows(found),
        "meanings": taught.MEANINGS, "no_maps": taught.no_maps(found), "engines": {
            name: {"precision": e.precision, "runtime": words.runtime_name(e.runtime),
                   "target": e.target.replace("+", " + ")} for name, e in engines.items()},
        "maps": maps and {"intro": taught.map_intro(maps), "titles": taught.MAP_TITLES,
                          "rows": taught.map_rows(maps), "meanings": taught.MAP_MEANINGS},
        "sheet": f"data:image/png;base64,{base64.b64encode(sheet).decode()}" if maps and sheet else "",
        "jitter": jitter and {"intro": taught.jitter_intro(jitter), "titles": taught.JITTER_TITLES,
                              "rows": taught.jitter_rows(found)},
    }


def _training(report: Report) -> list[dict[str, Any]]:
    runs = []
    for run in report.training:
        title, count = training.run_title(run), len(run.epochs)
        drawn = [training.Term("loss", [(e.epoch, e.loss) for e in run.epochs]),
                 training.Term("val top-1, %", [(e.epoch, e.val_top1_percent) for e in run.epochs]),
                 *training.terms(run)]
        charts = [(t.title, plot.curve(t.values, f"{title}: {t.title}", percent=t.title.endswith("%"))) for t in drawn]
        spent = words.seconds(sum(e.seconds or 0.0 for e in run.epochs))
        notes = [f"{count} epoch{'' if count == 1 else 's'}, {spent}", training.weights_told(run),
                 training.peers_told(run)]
        runs.append({"title": title, "charts": [(t, Markup(c)) for t, c in charts if c],
                     "notes": [note for note in notes if note]})
    return runs


def _stages(report: Report) -> list[dict[str, Any]]:
    rows = words.stage_rows(report)
    most = max((s.seconds or 0.0 for s in rows), default=0.0) or 1.0
    return [{"name": s.name, "state": s.state, "text": words.seconds(s.seconds),
             "width": round(100 * (s.seconds or 0.0) / most, 2)} for s in rows]


def _yaml_lines(recipe: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The resolved recipe as (indent, key, rest) lines, so that the page can colour its keys."""
    lines = []
    for line in yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100).splitlines():
        body = line.lstrip(" -")
        key, colon, rest = body.partition(":")
        is_key = bool(colon) and key.replace("_", "").isalnum()
        indent = line[:len(line) - len(body)]
        lines.append((indent, key + colon, rest) if is_key else (indent, "", body))
    return lines


def render_html(report: Report, sheet: bytes | None = None, pruned_sheet: bytes | None = None) -> str:
    """report.html as text; the same report gives the same bytes.

    sheet, pruned_sheet: PNGs of the Grad-CAM maps of student and teacher, and of before and after; held by the page.
    """
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    best = words.best_engine(report)
    total = sum(s.seconds or 0.0 for s in report.stages)
    return environment.get_template("template.html.j2").render(
        report=report, name=str(report.recipe.get("name", "build")), headline=words.headline(report),
        below=[told for told in (*notices.notices(report), validity.told([*report.engines, *report.unpruned]),
                                 quantized_words.summary(report), pruned_words.summary(report)) if told],
        pruned=pruned_section(report, pruned_sheet), quantized=quantized_section(report),
        devices={"intro": devices.INTRO, "told": devices.told(report), "titles": devices.TITLES,
                 "rows": devices.rows(report), "across": devices.across(report)},
        boundaries={"heading": boundaries.HEADING, "intro": boundaries.INTRO, "titles": boundaries.titles(report),
                    "rows": boundaries.rows(report), "conditions": boundaries.conditions(report)},
        contract={"intro": contract.INTRO, "titles": contract.TITLES, "rows": contract.rows(report.engines),
                  "slow": contract.slow(report.engines), "shown": contract.SHOWN},
        tiles=words.tiles(report), plots=_plots(report), legend=_legend(report),
        precisions=list(dict.fromkeys(e.precision for e in report.engines)),
        engines=[_row(e, report, best) for e in [*report.engines, *report.unpruned]],
        storage=_storage(report), strips=_strips(report), throughput=_throughput(report), limits=_limits(report),
        taught=_taught(report, sheet), training=_training(report), stages=_stages(report), total=words.seconds(total),
        how=how.measured(report), environment=how.environment(report),
        packages=[(n, v) for n, v in report.environment.packages.items() if v], yaml_lines=_yaml_lines(report.recipe),
        unmeasured=[e.name for e in report.engines if not e.measured],
    ).rstrip() + "\n"
