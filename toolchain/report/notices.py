"""What a reader must know before the figures: sentences below the headline of every page and of the console's table."""

from __future__ import annotations

from toolchain.report.quantized import Judged
from toolchain.report.schema import EngineResult, Report
from toolchain.report.words import interval, percent


def notices(report: Report) -> list[str]:
    """All of them, the gravest first."""
    judged = report.quantization.judged if report.quantization else []
    return [*at_chance(report), *report.own_file, *map(auto_told, judged)]


def at_chance(report: Report) -> list[str]:
    """That the reference guesses, as far as its interval can tell, and why that usually is; [] where it does not."""
    classes = len(report.data.classes)
    guessing = 100 / max(classes, 1)
    found = next((e for e in report.engines if e.precision == "fp32" and _holds(e, guessing)), None)
    if found is None:
        return []
    return [f"{found.name}, the float reference itself, is at chance: top-1 {percent(found.top1_percent)} % (95 %: "
            f"{interval(found.top1_interval)}), where guessing among {classes} classes gives {percent(guessing)} %. No "
            f"figure beside it says what quantization costs. {_causes(report)}"]


def auto_told(judged: Judged) -> str:
    """How `repair: auto` ended: 'INT8: repair auto tried nothing, as plain PTQ loses 0.20 points of top-1 on val …'"""
    field = judged.limit_field
    why = field if field else f"the default, as limits.{judged.precision}.top1_drop is not set"
    limit = f"{judged.limit:g} may be lost ({why})"
    lost = f"{_lost(judged.float_top1 - judged.after)} of top-1 on val"
    if not judged.tried:
        ended = f"tried nothing: the file without repair {lost}"
    elif judged.float_top1 - judged.after <= judged.limit:
        ended = f"stopped within its limit: the mended file {lost}"
    else:
        ended = f"tried every method, and it is NOT enough: the best file {lost}"
    return f"{judged.precision.upper()}: repair auto {ended}, and {limit}."


def _lost(points: float) -> str:
    return f"{'loses' if points >= 0 else 'gains'} {abs(points):.2f} points"


def _holds(engine: EngineResult, top1: float) -> bool:
    return engine.top1_interval is not None and engine.top1_interval[0] <= top1 <= engine.top1_interval[1]


def _causes(report: Report) -> str:
    if not report.recipe.get("model", {}).get("onnx"):
        return ("Usual causes: too few epochs, a learning rate that is too high or too low, labels that do not belong "
                "to their images.")
    return ("Usual causes for a network of your own: it was trained with another normalisation than it is fed with "
            f"here ({_fed(report)}), channels in another order (here RGB), classes in another order (here "
            f"{', '.join(report.data.classes[:3])}, …), another resize or crop.")


def _fed(report: Report) -> str:
    """'data.mean 0.5, 0.5, 0.5 and data.std 0.5, 0.5, 0.5, both defaults of digits'."""
    used, asked = report.data.preprocess or {}, report.recipe.get("data", {})
    if "mean" not in used or "std" not in used:
        return "data.mean and data.std"
    figures = {key: ", ".join(f"{value:g}" for value in used[key]) for key in ("mean", "std")}
    defaults = [key for key in figures if asked.get(key) is None]
    told = " and ".join(f"data.{key} {figures[key]}" for key in figures)
    if not defaults:
        return f"{told}, as the recipe says"
    whose = "both" if len(defaults) == 2 else f"data.{defaults[0]}"
    return f"{told}; {whose} by default, as the recipe sets none"
