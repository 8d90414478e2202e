"""report.md: the whole result as GitHub Markdown, for a pull request or a README."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from toolchain.report import (
    boundaries,
    contract,
    devices,
    how,
    notices,
    pruned_choice,
    pruned_words,
    quantized_words,
    taught,
    training,
    validity,
    words,
)
from toolchain.report.fidelity import Fidelity
from toolchain.report.limits import asks, broken, found_words, matrix
from toolchain.report.pruned import Pruning
from toolchain.report.quantized_pages import quantized_markdown
from toolchain.report.schema import EngineResult, LimitResult, Report

MARKS = {True: "✅", False: "❌"}
ENGINE_TITLES = ("Engine", "Top-1 % (95 %)", "Top-5 %", "Agreement %", "p50 ms", "p95", "p99", "Speed-up (95 %)",
                 "Runs as asked", "Weights", "Engine file", "Deflated", "Peak memory")


def escape(text: object) -> str:
    """Text that Markdown takes as it stands: no HTML, no table cell broken in two, no emphasis by accident."""
    plain = str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", plain).replace("\r", " ").replace("\n", " ")


def code(text: object) -> str:
    """Text as inline code, safe inside a table too."""
    return f"`{str(text).replace('`', chr(39)).replace('|', '¦').replace(chr(10), ' ')}`"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A GitHub table whose first `left` columns are left-aligned and whose other columns are right-aligned."""
    marks = [":---" if i < left else "---:" for i in range(len(titles))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [titles, marks, *rows])


def _with(figure: str, spread: str) -> str:
    return f"{figure} ({spread})" if spread else figure


def _engine_row(engine: EngineResult) -> list[str]:
    kept = _with(*contract.realised(engine))
    sizes = [words.size(number) for number in (
        engine.weight_bytes, engine.engine_bytes, engine.deflate_bytes, engine.peak_memory_bytes)]
    if not engine.measured:
        return [code(engine.name), f"*{escape(words.unmeasured(engine))}*", *[words.NOTHING] * 6, kept, *sizes]
    latency, speedup = engine.latency_ms, engine.speedup_vs_fp32
    return [
        code(engine.name), _with(words.percent(engine.top1_percent), words.interval(engine.top1_interval)),
        words.percent(engine.top5_percent), words.percent(engine.agreement_percent),
        f"{words.milliseconds(latency.p50)} {words.spread(latency)}{validity.mark(engine)} "
        f"{words.copies(engine.transfer_ms)}".rstrip()
        if latency else words.NOTHING,
        words.milliseconds(latency.p95 if latency else None), words.milliseconds(latency.p99 if latency else None),
        _with(words.times(speedup.value if speedup else None), words.speedup_interval(speedup)), kept, *sizes,
    ]


def _devices(report: Report) -> str:
    if not report.devices:
        return ""
    lines = [[escape(device), code(engine), *map(escape, rest)] for device, engine, *rest in devices.rows(report)]
    titles, cells = devices.across(report)
    compared = [[code(engine), *map(escape, rest)] for engine, *rest in cells]
    told = "\n".join(f"- {escape(sentence)}" for sentence in devices.told(report))
    return "\n\n".join([f"## On devices\n{devices.INTRO}", told, table(devices.TITLES, lines, left=2),
                        "### Side by side\n" + table([*map(escape, titles)], compared)])


def _boundaries(report: Report) -> str:
    rows = [[code(engine), *rest] for engine, *rest in boundaries.rows(report)]
    told = "\n".join(f"- {escape(sentence)}" for sentence in boundaries.conditions(report))
    if not rows:
        return ""
    return f"## {boundaries.HEADING}\n{boundaries.INTRO}\n\n{table(boundaries.titles(report), rows)}\n\n{told}"


def _throughput(report: Report) -> str:
    swept = [e for e in report.engines if e.throughput]
    batches = sorted({t.batch for e in swept for t in e.throughput})
    if not swept:
        return ""
    rows = [[code(e.name), *(f"{found[b]:,.0f}" if b in found else words.NOTHING for b in batches)]
            for e in swept for found in [{t.batch: t.images_per_s for t in e.throughput}]]
    return "## Throughput\nImages per second.\n\n" + table(["Engine", *(f"batch {b}" for b in batches)], rows)


def _contract(report: Report) -> str:
    rows = [[code(r.engine), escape(r.layer), r.asked, escape(r.realised), r.verdict, escape(r.why)]
            for r in contract.rows(report.engines)]
    slow = "\n".join(f"- {escape(told)}" for told in contract.slow(report.engines))
    if not rows:
        return f"## Asked and realised\n{slow}" if slow else ""
    parts = [contract.INTRO, slow, table(contract.TITLES, rows[:contract.SHOWN], left=6)]
    if len(rows) > contract.SHOWN:
        parts.append(f"<details><summary>{len(rows) - contract.SHOWN} more</summary>\n\n"
                     + table(contract.TITLES, rows[contract.SHOWN:], left=6) + "\n\n</details>")
    return "## Asked and realised\n" + "\n\n".join(part for part in parts if part)


def _limit_cell(result: LimitResult | None) -> str:
    if result is None:
        return ""
    if result.held is None:
        return "not checked"
    return f"{MARKS[result.held]} {escape(found_words(result))}, asked {asks(result)}"


def _limits(report: Report) -> str:
    if not report.limits:
        return ""
    columns, rows = matrix(report.limits)
    cells = [[code(engine), *(_limit_cell(found.get(limit)) for limit in columns)] for engine, found in rows.items()]
    wrong = "\n".join(f"- ❌ {escape(message)}" for message in broken(report.limits))
    reasons = "; ".join(dict.fromkeys(str(r.reason) for r in report.limits if r.held is None))
    parts = [wrong, table(["Engine", *map(code, columns)], cells, left=1 + len(columns)),
             f"Where it says not checked: {escape(reasons)}." if reasons else ""]
    return "## Limits\n" + "\n\n".join(part for part in parts if part)


def _taught(report: Report) -> str:
    found = report.fidelity
    if found is None:
        return ""
    rows = [[code(r.name), _with(r.top1, r.top1_interval), _with(r.kl, r.kl_interval), r.kl_epsilon, r.js,
             _with(r.agreement, r.agreement_interval)] for r in taught.engine_rows(found)]
    meanings = "\n".join(f"- {name}: {told}" for name, told in taught.MEANINGS)
    parts = [taught.intro(found), table(taught.ENGINE_TITLES, rows), meanings, _jitter(found), _maps(found)]
    return "## What was taught\n" + "\n\n".join(part for part in parts if part)


def _pruned(report: Report) -> str:
    found = report.pruning
    if found is None:
        return ""
    engines = [[code(r.name), _with(r.speedup, r.speedup_interval), _with(r.top1, r.top1_interval), r.weights,
                r.engine_file, r.deflated] for r in pruned_words.engine_rows(report)]
    packed = [[code(name), *sizes] for name, *sizes in pruned_words.packed_rows(report)]
    changes = [[_with(r.what, r.where), r.before, r.after, r.change] for r in pruned_words.change_rows(report)]
    points = [[f"{share:.2f}", words.percent(top1), name] for share, top1, name in pruned_words.removed_points(found)]
    layers = [[code(r.name), r.width, r.weights, r.density, r.macs] for r in pruned_words.layer_rows(found)]
    parts = [
        escape(pruned_words.intro(found)),
        table(pruned_words.CHANGE_TITLES, changes),
        "### Against the unpruned FP32 engine\n" + table(pruned_words.ENGINE_TITLES, engines) if engines else "",
        f"### Zeros packed\n{pruned_words.PACKED}\n\n" + table(pruned_words.PACKED_TITLES, packed) if packed else "",
        "### Accuracy over what was removed\n" + table(
            (pruned_words.removed_title(found).capitalize(), "Val top-1 %", ""), points) if len(points) > 1 else "",
        *_decided(found),
        "### Layers\n" + table(pruned_words.LAYER_TITLES, layers), _looks(report)]
    return "## What pruning changed\n" + "\n\n".join(part for part in parts if part)


def _decided(found: Pruning) -> list[str]:
    """What an engine was asked on the way: whole networks for a budget, single layers for their factors."""
    factors = [[code(r.name), r.ranks, r.speedup, r.verdict] for r in pruned_choice.factor_rows(found)]
    return [
        f"### Latency: predicted and measured\n{escape(pruned_choice.check_intro(found))}\n\n" + table(
            pruned_choice.CHECK_TITLES, pruned_choice.check_rows(found)) if found.checks else "",
        f"### {pruned_choice.FACTOR_HEADING}\n{escape(pruned_choice.factor_intro(found))}\n\n" + table(
            pruned_choice.FACTOR_TITLES, factors) if factors else ""]


def _looks(report: Report) -> str:
    """Where the pruned network looks, beside where it looked before."""
    assert report.pruning is not None
    maps, told = report.pruning.gradcam, escape(pruned_words.gradcam_intro(report.pruning))
    if maps is None:
        return told
    rows = [[r.what, _with(r.student, r.student_interval), r.random, r.teacher, r.verdict]
            for r in taught.map_rows(maps)]
    return "\n\n".join([f"### Grad-CAM before and after\n{told}", table(pruned_words.MAP_TITLES, rows),
                        f"![Images with the maps of both networks]({maps.sheet})"])


def _maps(found: Fidelity) -> str:
    maps = found.gradcam
    if maps is None:
        return escape(taught.no_maps(found))
    rows = [[r.what, _with(r.student, r.student_interval), r.random, r.teacher, r.verdict]
            for r in taught.map_rows(maps)]
    return "\n\n".join(["### Grad-CAM\n" + escape(taught.map_intro(maps)), table(taught.MAP_TITLES, rows),
                        "\n".join(f"- {told}" for told in taught.MAP_MEANINGS),
                        f"![Images with the maps of teacher and student]({maps.sheet})"])


def _jitter(found: Fidelity) -> str:
    if found.jitter is None:
        return ""
    rows = [[code(r.name), r.clean, r.jittered, _with(r.drop, r.drop_interval), r.verdict]
            for r in taught.jitter_rows(found)]
    return f"### Colour jitter\n{escape(taught.jitter_intro(found.jitter))}\n\n" + table(taught.JITTER_TITLES, rows)


def _training(report: Report) -> str:
    rows, notes = [], []
    for run in report.training:
        best = max((e.val_top1_percent for e in run.epochs if e.val_top1_percent is not None), default=None)
        last = run.epochs[-1] if run.epochs else None
        spent = [e.seconds for e in run.epochs if e.seconds is not None]
        loss = f"{last.loss:.4g}" if last and last.loss is not None else words.NOTHING
        title = escape(training.run_title(run))
        told = (training.weights_told(run), training.peers_told(run))
        notes += [f"- {title}: {escape(sentence)}" for sentence in told if sentence]
        rows.append([title, str(len(run.epochs)), loss,
                     words.percent(last.val_top1_percent if last else None), words.percent(best),
                     words.seconds(sum(spent) if spent else None)])
    titles = ["Run", "Epochs", "Last loss", "Last val top-1 %", "Best val top-1 %", "Time"]
    parts = ["## Training\n" + table(titles, rows), "\n".join(notes)] if rows else []
    return "\n\n".join(part for part in parts if part)


def _details(report: Report) -> str:
    rows = [[code(e.name), escape(words.compute_words(e)), escape(words.gap_words(e.gap)),
             code(e.path) if e.path else words.NOTHING, code(e.sha256[:16]) if e.sha256 else words.NOTHING]
            for e in report.engines]
    titles = ["Engine", "Computes in", "ONNX gap to its predecessor", "File", "SHA-256 begins"]
    return "## Engine files\n" + table(titles, rows, left=5)


def _data(report: Report) -> str:
    data = report.data
    rows = [["Dataset", escape(data.name)], ["Classes", str(len(data.classes))],
            ["Images", f"{data.train:,} train, {data.val:,} val, {data.test:,} test"],
            ["Split SHA-256", code(data.split_sha256)]]
    if data.calibration:
        rows.append(["Calibration", f"{data.calibration.images:,} images from {escape(data.calibration.source)}"])
    return "## Data\n" + table(["", ""], rows, left=2)


def _stages(report: Report) -> str:
    rows = [[escape(s.name), words.seconds(s.seconds), s.state, code(s.key) if s.key else ""]
            for s in words.stage_rows(report)]
    return "## Stages\n" + table(["Stage", "Time", "", "Key"], rows)


def _environment(report: Report) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in report.environment.packages.items() if version)
    rows = [[what, escape(value)] for what, value in [*how.environment(report), ("Packages", packages)]]
    return "## Environment\n" + table(["", ""], rows, left=2)


def render_markdown(report: Report) -> str:
    """report.md as text; the same report gives the same bytes."""
    sections = [
        f"# {escape(report.recipe.get('name', 'build'))}",
        f"**{escape(words.headline(report))}**",
        *(escape(told) for told in notices.notices(report)),
        escape(quantized_words.summary(report)), escape(pruned_words.summary(report)),
        escape(validity.told([*report.engines, *report.unpruned]) or ""),
        "## Engines\n" + table(ENGINE_TITLES, map(_engine_row, [*report.engines, *report.unpruned])),
        _devices(report), _boundaries(report), _limits(report), _contract(report), _throughput(report),
        quantized_markdown(report, code, escape, table), _pruned(report),
        _taught(report), _training(report),
        "## How this was measured\n" + "\n".join(f"- {line}" for line in how.measured(report)),
        _details(report), _data(report), _stages(report), _environment(report),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"
