"""What blame says: the console table and blame.md, from the same cells."""

from __future__ import annotations

import json

from toolchain.blame.file import Blame, LayerBlame, Proposal
from toolchain.blame.recipe_file import needs_quotes
from toolchain.report.markdown import code, escape, table
from toolchain.report.taught import nats

TITLES = ("Layer", "Precision", "KL, nats", "Weights dB", "Input dB", "Boundary dB", "Why")
NOTES = (
    "KL: of the answers, when this layer alone is quantized as the file has it and the rest is float. It ranks.",
    "Weights, Input: signal over quantization noise of the layer's own weights and of the tensors it rounds.",
    "Boundary: the same of the tensor after the layer and what is fused with it, in the whole quantized network, so "
    "errors of the layers before count too.",
    "A layer whose scale is not the one that the build's ranges ask for stands first, whatever it costs: mending it is "
    "free. Of a build that kept no ranges, one whose scale does not fit the images seen, which may be meant.",
    "The images are a fixed draw from val, never from test.",
)


def headline(found: Blame) -> str:
    """One sentence about the whole file."""
    return (f"{found.engine}: KL {nats(found.kl_nats)} nats to float, {found.agreement_percent:.1f} % of "
            f"{found.images:,} images of val answered alike; judged on {found.file} against {found.reference}")


def row(layer: LayerBlame) -> list[str]:
    """One line, in the order of TITLES."""
    return [layer.name, layer.precision, nats(layer.kl_nats), _db(layer.weight_sqnr_db), _db(layer.input_sqnr_db),
            _db(layer.boundary_sqnr_db), layer.fault or layer.cause]


def lines(proposal: Proposal) -> list[str]:
    """The edit as a piece of YAML."""
    indent = [f"{'  ' * depth}{key}:" for depth, key in enumerate(proposal.field)]
    return [*indent[:-1], f"{indent[-1]} {_yaml(proposal.value)}"]


def told(proposal: Proposal) -> str:
    """What the edit is for, and what trying it on val gave."""
    found = proposal.verified
    if found is None:
        return f"{proposal.why}. Not tried."
    return (f"{proposal.why}. Tried on {found.images:,} images of val: top-1 {found.top1_percent:.2f} -> "
            f"{found.top1_after_percent:.2f} % (float {found.float_top1_percent:.2f} %), KL {nats(found.kl_nats)} -> "
            f"{nats(found.kl_after_nats)} nats")


def render_markdown(found: Blame) -> str:
    """blame.md; the same ranking gives the same bytes."""
    rows = [[code(cells[0]), *cells[1:-1], escape(cells[-1])] for cells in map(row, found.layers)]
    aligned = [[code(layer.name), *(", ".join(map(code, names)) or "–" for names in (
        layer.nodes, layer.quantized_nodes, [layer.boundary], layer.engine_layers))] for layer in found.layers]
    parts = [f"# Blame of {escape(found.run)}", escape(headline(found)) + ".", table(TITLES, rows, left=2),
             "## What to do", escape(found.told) + _fenced(found.proposal), "## Which layer is which",
             table(("PyTorch module", "Float ONNX", "Quantized ONNX", "Boundary", "Engine"), aligned, left=5),
             "## How to read it\n" + "\n".join(f"- {escape(note)}" for note in NOTES)]
    return "\n\n".join(parts) + "\n"


def _fenced(proposal: Proposal | None) -> str:
    return "" if proposal is None else "\n\n" + "\n".join(["```yaml", *lines(proposal), "```"])


def _yaml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_yaml(key)}: {_yaml(each)}" for key, each in value.items()) + "}"
    return value if isinstance(value, str) and not needs_quotes(value) else json.dumps(value)


def _db(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
