"""Number formats and what a network loses in them, drawn by rich or as JSON-able data."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from toolchain.explain.counts import GRADIENTS, KINDS, Losses, Lost
from toolchain.explain.formats import EXAMPLES, FLOATS, NumberFormat, number_formats, pattern, rounded, truncated_bf16

PLAIN_WIDTH = 150
NOTHING = "–"
NAMES = {"fp32": "FP32", "tf32": "TF32", "fp16": "FP16", "bf16": "BF16", "fp8_e4m3": "FP8 E4M3", "fp8_e5m2": "FP8 E5M2",
         "int8": "INT8", "int4": "INT4"}


def print_formats(console: Console | None = None) -> None:
    """The formats, some values in each of them, and what is often told wrongly about them."""
    console = console or _stdout()
    console.print(_formats(), _examples(), markup=False)
    console.print("Often told wrongly", style="bold")
    for line in corrections():
        console.print(f"- {line}", markup=False, soft_wrap=True)


def corrections() -> list[str]:
    """What a course report on these formats had wrong, and what is so; every figure is computed."""
    known = {f.name: f for f in number_formats()}
    half, brain = known["fp16"], known["bf16"]
    cut, cut_bits = truncated_bf16(1e-8)
    return [
        f"\"FP16 reaches 65535\": its largest value is {half.largest:g}; from 65520 on it is infinite "
        f"(65535 is {pattern(65535.0, 'fp16')}, infinity).",
        f"\"FP16 needs more memory than BF16\": both take {half.bytes_each:g} bytes.",
        f"\"BF16 has the smaller dynamic range\": it has FP32's, up to {brain.largest:.4g} and down to "
        f"{brain.smallest_normal:.3g}; what it has less of is precision (eps {brain.eps:g} against {half.eps:.3g}).",
        f"\"FP32 becomes BF16 by dropping two bytes\": it is rounded, ties to even. 1e-8 is {pattern(1e-8, 'bf16')} "
        f"({rounded(1e-8, 'bf16'):.6g}); dropping bytes would give {cut_bits} ({cut:.6g}).",
        "\"A T4 computes in BF16\": it has no BF16 units (SM80 and later do), so what is timed there is emulated.",
        "INT8 and INT4 have no exponent: the scale decides what 1 is, and all values of a tensor, channel or block "
        "share it. Codes of INT8 weights run from -127 to 127, those of activations from -128.",
    ]


def print_losses(name: str, where: str, found: Losses, console: Console | None = None) -> None:
    """What the recipe's network would lose, in all and layer by layer."""
    console = console or _stdout()
    console.print(f"\n{name}: {where}; loss {found.loss:.3g}", style="bold", markup=False, soft_wrap=True)
    console.print(_summary(found), _by_layer(found), markup=False)
    console.print("Shares are of the values that are not 0 in FP32: → 0, and → inf where it happens (E4M3 has no "
                  "infinity: beyond 448). Loss scale: the largest power of two at which no gradient of this batch "
                  "overflows.",
                  markup=False, soft_wrap=True)
    console.print(verdict(found), markup=False, soft_wrap=True)


def verdict(found: Losses) -> str:
    """What it means for training, in one sentence."""
    half, brain = found.total("fp16", GRADIENTS), found.total("bf16", GRADIENTS)
    scaled = found.total("fp16", GRADIENTS, scaled=True)
    return (f"FP16 loses {_percent(half.zero_percent)} of the gradients to 0, {_percent(scaled.zero_percent)} with a "
            f"loss scale of {_scale(found.scales['fp16'])}; BF16 loses {_percent(brain.zero_percent)} and needs none.")


def as_data(name: str | None = None, where: str | None = None, found: Losses | None = None) -> dict[str, Any]:
    """Everything that is printed, as plain data. A value that a format cannot hold is null."""
    data: dict[str, Any] = {
        "formats": [vars(f) | {"bytes": f.bytes_each} for f in number_formats()],
        "examples": [{"value": value, **{name: {"bits": pattern(value, name), "value": _finite(rounded(value, name))}
                                         for name in ("tf32", *FLOATS)}} for value in EXAMPLES],
        "corrections": corrections()}
    if found is not None:
        data["network"] = {"recipe": name, "from": where, "loss": found.loss, "loss_scales": found.scales, "layers": [
            {"layer": layer, "values": kind, "format": format, "scaled": scaled, **vars(lost)}
            for scaled, counted in ((False, found.plain), (True, found.scaled))
            for format, counts in counted.items() for (layer, kind), lost in counts.items()]}
    return data


def _formats() -> Table:
    table = _table("Number formats", ("Format", "Bits", "Exponent", "Fraction", "Largest", "Smallest normal",
                                      "Smallest subnormal", "Eps", "Bytes", "Infinity"))
    for f in number_formats():
        is_float = f.eps is not None
        largest = f"{f.largest:.5g}" if is_float else f"{f.lowest:.0f} … {f.largest:.0f}, × scale"
        layout = [str(f.exponent_bits), str(f.fraction_bits)] if is_float else [NOTHING, NOTHING]
        table.add_row(NAMES[f.name], str(f.bits), *layout, largest, *_small(f), f"{f.bytes_each:g}",
                      ("yes" if f.infinity else "no") if is_float else NOTHING)
    return table


def _small(f: NumberFormat) -> list[str]:
    return [NOTHING if value is None else f"{value:.4g}" for value in (f.smallest_normal, f.smallest_subnormal, f.eps)]


def _examples() -> Table:
    names = ("tf32", *FLOATS)
    table = _table("Values, from FP32, rounded to nearest, ties to even",
                   ("Value", *(NAMES[name] for name in names if name != "tf32")))
    for value in EXAMPLES:
        table.add_row(f"{value:.13g}", *(f"{rounded(value, name):.7g} {pattern(value, name)}"
                                         for name in names if name != "tf32"))
    return table


def _summary(found: Losses) -> Table:
    table = _table(None, ("Values", *(NAMES[name] for name in found.plain)))
    for kind in KINDS:
        table.add_row(kind, *(_cell(found.total(name, (kind,))) for name in found.plain))
    for kind in GRADIENTS:
        table.add_row(f"{kind}, loss scaled", *(_cell(found.total(name, (kind,), scaled=True)) for name in found.plain))
    table.add_row("loss scale", *(_scale(scale) for scale in found.scales.values()))
    return table


def _by_layer(found: Losses) -> Table:
    table = _table("Gradients, layer by layer (of weights and activations together)", (
        "Layer", *(title for name in found.plain for title in (NAMES[name], "scaled"))))
    for layer in found.layers:
        table.add_row(layer, *(_cell(found.total(name, GRADIENTS, scaled, layer))
                               for name in found.plain for scaled in (False, True)))
    return table


def _cell(lost: Lost) -> str:
    overflow = f", {_percent(lost.overflow_percent)} → inf" if lost.overflow else ""
    return f"{_percent(lost.zero_percent)}{overflow}" if lost.nonzero else NOTHING


def _percent(value: float) -> str:
    """'12.3 %'; a share that is not quite nothing does not read as nothing."""
    return "0 %" if value == 0 else "< 0.01 %" if value < 0.01 else f"{value:.2f} %" if value < 10 else f"{value:.1f} %"


def _scale(scale: float) -> str:
    return f"2^{scale.hex().split('p')[1].lstrip('+')}" if scale != 1 else "1"


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def _table(title: str | None, columns: tuple[str, ...]) -> Table:
    table = Table(box=None, header_style="bold", title=title, title_justify="left", padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index > 0)
    return table


def _stdout() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)
