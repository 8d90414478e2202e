"""What the page says of a pruned network: the values that pruned.html.j2 shows."""

from __future__ import annotations

import base64
from typing import Any

from markupsafe import Markup

from toolchain.report import pruned_choice as choice
from toolchain.report import pruned_plot as plot
from toolchain.report import pruned_words as told
from toolchain.report import taught, words
from toolchain.report.pruned import PrunedLayer
from toolchain.report.schema import Report


def pruned_section(report: Report, sheet: bytes | None) -> dict[str, Any] | None:
    """None where nothing was pruned. sheet: PNG of the Grad-CAM maps before and after; the page itself holds it."""
    found = report.pruning
    if found is None:
        return None
    engines = {e.name: {"precision": e.precision, "runtime": words.runtime_name(e.runtime),
                        "target": e.target.replace("+", " + ")} for e in report.engines}
    maps = found.gradcam
    return {
        "intro": told.intro(found), "change_titles": told.CHANGE_TITLES, "changes": told.change_rows(report),
        "curve": Markup(plot.removed_curve(told.removed_points(found), told.removed_title(found))),
        "engine_titles": told.ENGINE_TITLES, "engines": [(engines[r.name], r) for r in told.engine_rows(report)],
        "packed_titles": told.PACKED_TITLES, "packed": told.packed_rows(report), "packed_told": told.PACKED,
        "check_titles": choice.CHECK_TITLES, "checks": choice.check_rows(found),
        "check_told": choice.check_intro(found),
        "factor_heading": choice.FACTOR_HEADING, "factor_titles": choice.FACTOR_TITLES,
        "factors": choice.factor_rows(found), "factor_told": choice.factor_intro(found),
        "predicted": Markup(plot.predicted_plot(found.checks)),
        "layer_titles": told.LAYER_TITLES, "layers": told.layer_rows(found),
        "histograms": [(layer.name, _zeros(layer), Markup(plot.histogram(layer.histogram, layer.name)))
                       for layer in found.layers if layer.histogram],
        "map_titles": told.MAP_TITLES, "map_intro": told.gradcam_intro(found),
        "maps": taught.map_rows(maps) if maps else [],
        "sheet": f"data:image/png;base64,{base64.b64encode(sheet).decode()}" if maps and sheet else ""}


def _zeros(layer: PrunedLayer) -> str:
    """'70.0 % zero', or nothing at all."""
    return f"{100 * layer.zeros_after / layer.weights_after:.1f} % zero" if layer.zeros_after else ""
