"""sensitivity.html: one self-contained page; it loads nothing from anywhere and runs no script."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from toolchain import report
from toolchain.sensitivity import words
from toolchain.sensitivity.advice import advice
from toolchain.sensitivity.file import Kind, Sensitivity
from toolchain.sensitivity.plot import drop_curve, drop_range

FOLDERS = [Path(__file__).parent, Path(report.__file__).parent]  # our page, in the report's style


def render_html(name: str, scans: Mapping[Kind, Sensitivity], files: Mapping[Kind, str]) -> str:
    """The page as text; jinja2 escapes every name, the plots escape their own. files: as for `render_markdown`."""
    environment = Environment(loader=FileSystemLoader(FOLDERS), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("sensitivity.html.j2").render(
        name=name, notes=words.NOTES, scans=[_scan(found, files[kind]) for kind, found in scans.items()]
    ).rstrip() + "\n"


def _scan(found: Sensitivity, file: str) -> dict[str, Any]:
    low, high = drop_range(found)
    told, lines = advice(found, file)
    rows = [(layer.name, f"{layer.parameters:,}", [(*words.cell(point), words.heat(point, found))
                                                   for point in layer.points]) for layer in found.layers]
    curves = [(layer.name, Markup(drop_curve(layer, low, high))) for layer in found.layers
              if found.kind != "quantize"]
    return {"title": words.TITLES[found.kind], "headline": words.headline(found), "told": words.TOLD[found.kind],
            "what": "Group" if found.kind == "channels" else "Layer", "columns": words.columns(found), "rows": rows,
            "curves": curves, "advice": told, "lines": "\n".join(lines)}
