"""sensitivity.md: the scans of one network as GitHub Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toolchain.report.markdown import code, escape, table
from toolchain.sensitivity import words
from toolchain.sensitivity.advice import advice
from toolchain.sensitivity.file import Kind, Sensitivity


def render_markdown(name: str, scans: Mapping[Kind, Sensitivity], files: Mapping[Kind, str]) -> str:
    """The same scans give the same bytes. files: where each scan's JSON lies, for the lines that recipes need."""
    sections = [f"# Sensitivity of {escape(name)}", *(_scan(found, files[kind]) for kind, found in scans.items()),
                "## How to read it\n" + "\n".join(f"- {escape(note)}" for note in words.NOTES)]
    return "\n\n".join(sections) + "\n"


def _scan(found: Sensitivity, file: str) -> str:
    rows = [[code(layer.name), f"{layer.parameters:,}", f"{layer.macs:,}" if layer.macs is not None else "–",
             *(f"{drop} ({kl})" for drop, kl in map(words.cell, layer.points))] for layer in found.layers]
    return "\n\n".join([
        f"## {words.TITLES[found.kind]}", f"{escape(words.headline(found))}. {words.TOLD[found.kind]}",
        table(["Layer", "Weights", "MACs", *words.columns(found)], rows), _advice(*advice(found, file))])


def _advice(told: str, lines: Sequence[str]) -> str:
    fenced = "\n".join(["```yaml", *lines, "```"]) if lines else ""
    return f"{escape(told)}\n\n{fenced}".rstrip()
