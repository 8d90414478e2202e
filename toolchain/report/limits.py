"""The recipe's limits held against what was found, engine by engine.

Flat limits judge every engine except FP32; a precision's own section overrides them field by field and may judge FP32
too. Sizes are known without running an engine, so they are judged even where it could not be measured. A limit that
cannot be judged here is listed with its reason and does not fail, with one exception: a limit written in a
precision's own section asks for that precision by name, so it fails when not one of its engines could be judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from toolchain.recipe.limits import AGAINST_FP32, asked_by_name
from toolchain.recipe.schema import PRECISIONS, Holds, Limits
from toolchain.report.contract import EQUAL
from toolchain.report.part import Speedup
from toolchain.report.schema import EngineResult, LimitResult

SLACK = 1e-9  # 98.0 - 97.5 is not exactly 0.5
WHOLE = 100 - SLACK


class Rule(NamedTuple):
    """How a limit reads: `at_least` or at most, its unit, and whether it can be judged without running."""

    at_least: bool
    unit: str
    is_size: bool = False


RULES: dict[str, Rule] = {
    "top1": Rule(at_least=True, unit=" %"),
    "top1_drop": Rule(at_least=False, unit=" points"),
    "agreement": Rule(at_least=True, unit=" %"),
    "speedup": Rule(at_least=True, unit="×"),
    "latency_ms": Rule(at_least=False, unit=" ms"),
    "weight_bytes": Rule(at_least=False, unit=" of FP32", is_size=True),
    "engine_bytes": Rule(at_least=False, unit=" bytes", is_size=True),
    "realised": Rule(at_least=True, unit=" %", is_size=True),
    "faster": Rule(at_least=True, unit="×"),
}


def fp32_reference(engine: EngineResult, engines: Sequence[EngineResult]) -> EngineResult | None:
    """The measured FP32 engine whose accuracy `engine` is compared with; None without any.

    It is the one that the measurement names, or else that of the same runtime, or else the first.
    """
    measured = [e for e in engines if e.precision == "fp32" and e.measured]
    named = next((e for e in measured if e.name == engine.accuracy_reference), None)
    if named:
        return named
    return next((e for e in measured if e.runtime == engine.runtime), measured[0] if measured else None)


def fp32_weight_bytes(engine: EngineResult, engines: Sequence[EngineResult]) -> int | None:
    """Weight bytes of the FP32 engine of the same runtime, measured or not, or else of the first FP32 engine."""
    sized = [e for e in engines if e.precision == "fp32" and e.weight_bytes]
    same = next((e for e in sized if e.runtime == engine.runtime), sized[0] if sized else None)
    return same.weight_bytes if same else None


def top1_drop(engine: EngineResult, engines: Sequence[EngineResult]) -> float | None:
    """Points of top-1 lost against the FP32 reference (negative: gained), or None when either was not measured."""
    reference = fp32_reference(engine, engines)
    if reference is None or reference.top1_percent is None or engine.top1_percent is None:
        return None
    return reference.top1_percent - engine.top1_percent


def weight_share(engine: EngineResult, engines: Sequence[EngineResult]) -> float | None:
    """Weight bytes as a share of FP32's, or None where one of the two is unknown."""
    whole = fp32_weight_bytes(engine, engines)
    return engine.weight_bytes / whole if whole and engine.weight_bytes is not None else None


def find(limit: str, engine: EngineResult, engines: Sequence[EngineResult]) -> float | None:
    """What `engine` reaches in the unit of `limit`, or None where it is not known."""
    found: dict[str, float | None] = {
        "top1": engine.top1_percent,
        "top1_drop": top1_drop(engine, engines),
        "agreement": engine.agreement_percent,
        "speedup": engine.speedup_vs_fp32.value if engine.speedup_vs_fp32 else None,
        "latency_ms": engine.latency_ms.p50 if engine.latency_ms else None,
        "weight_bytes": weight_share(engine, engines),
        "engine_bytes": engine.engine_bytes,
        "realised": 100 * engine.contract.kept_share if engine.contract else None,
        "faster": engine.speedup_vs_fp32.value if engine.speedup_vs_fp32 else None,
    }
    return found[limit]


def _reason(limit: str, engine: EngineResult, engines: Sequence[EngineResult]) -> str:
    if not engine.measured and not RULES[limit].is_size:
        return str(engine.reason)
    if limit in AGAINST_FP32 and not RULES[limit].is_size and fp32_reference(engine, engines) is None:
        return "no FP32 engine was measured to compare with"
    if limit == "weight_bytes" and fp32_weight_bytes(engine, engines) is None:
        return "no FP32 engine to compare with"
    return "the engine has no such figure"


def _judge(limit: str, asked: float, engine: EngineResult, engines: Sequence[EngineResult]) -> LimitResult:
    found = find(limit, engine, engines)
    if found is None:
        return LimitResult(engine=engine.name, limit=limit, asked=asked, reason=_reason(limit, engine, engines))
    if limit in CAUTIOUS:
        held, why = CAUTIOUS[limit](asked, found, engine, engines)
        return LimitResult(engine=engine.name, limit=limit, asked=asked, found=found, held=held, reason=why)
    held = found >= asked - SLACK if RULES[limit].at_least else found <= asked + SLACK
    return LimitResult(engine=engine.name, limit=limit, asked=asked, found=found, held=held)


def _realised(asked: float, found: float, engine: EngineResult, engines: Sequence[EngineResult]
              ) -> tuple[bool | None, str | None]:
    """Broken only where what cannot be told would not make up for it, or where the engine computes something else."""
    contract = engine.contract
    assert contract is not None
    if contract.numbers and contract.numbers.verdict == "broken":
        return False, contract.numbers.why
    wrong = found + 100 * contract.undecidable_share < asked - SLACK
    if asked >= WHOLE:  # an Add of unknown size weighs nothing, and all is all
        wrong = wrong or any(layer.verdict == "broken" for layer in contract.layers)
    if found >= asked - SLACK and not wrong:
        numbers = contract.numbers
        return (None, numbers.why) if numbers and numbers.verdict == "undecidable" else (True, None)
    whys = [f"{layer.name}: {layer.why}" for layer in contract.layers if (layer.verdict == "broken") is wrong]
    more = f" (and {len(whys) - 1} more layers)" if len(whys) > 1 else ""
    return False if wrong else None, f"{whys[0]}{more}" if whys else None


def _faster(asked: float, found: float, engine: EngineResult, engines: Sequence[EngineResult]
            ) -> tuple[bool | None, str | None]:
    """Judged on 95 % intervals: against FP32, and against an FP16 engine of the same runtime that computes in FP16."""
    speedup = engine.speedup_vs_fp32
    assert speedup is not None
    twins = [e.speedup_vs_fp32 for e in engines if e.precision == "fp16" and e.compute == "fp16" and e.speedup_vs_fp32
             and (e.runtime, e.latency_reference) == (engine.runtime, engine.latency_reference)]
    for twin, name in [(Speedup(value=1, low=1, high=1), "FP32"), *((twin, "FP16") for twin in twins)]:
        low, high = (speedup.low or speedup.value) / (twin.high or twin.value), (
            speedup.high or speedup.value) / (twin.low or twin.value)
        if high <= EQUAL:
            return False, f"{low:.2f} to {high:.2f}× {name}'s speed"
        if low <= 1:
            return None, f"{low:.2f} to {high:.2f}× {name}'s speed is neither faster nor slower"
    return True, None


# limits that tell what is not so from what cannot be told; their `found` may stand beside a `reason`
CAUTIOUS: dict[str, Callable[[float, float, EngineResult, Sequence[EngineResult]], tuple[bool | None, str | None]]] = {
    "realised": _realised, "faster": _faster}


def _asked(limits: Limits, precision: str) -> Iterable[tuple[str, float, bool]]:
    """(limit, value, is it asked of the precision by name) for every limit on engines of `precision`.

    A section's own default holds unless the recipe says otherwise, there or flat, and asks for nothing by name.
    """
    own: Holds = getattr(limits, precision)
    by_name = asked_by_name(limits, precision)
    for limit in RULES:
        written, flat, value = limit in own.model_fields_set, getattr(limits, limit), getattr(own, limit)
        if not written and flat is not None and precision != "fp32":
            value = flat
        if value is not None and value is not False:
            yield limit, float(value), limit in by_name


def _check_precision(precision: str, limit: str, asked: float, own: bool,
                     engines: Sequence[EngineResult]) -> list[LimitResult]:
    of_precision = [e for e in engines if e.precision == precision]
    if limit == "realised" and not own:  # a default, or flat: nothing to say of an engine without a contract
        of_precision = [e for e in of_precision if e.contract]
    results = [_judge(limit, asked, engine, engines) for engine in of_precision]
    timed = limit == "faster" and any(r.found is not None for r in results)  # a draw is a result too
    if not own or timed or any(r.held is not None for r in results):
        return results
    why = "; ".join(dict.fromkeys(str(r.reason) for r in results)) or f"the build has no {precision.upper()} engine"
    return [LimitResult(engine=precision, limit=limit, asked=asked, held=False,
                        reason=f"no {precision.upper()} engine could be checked here ({why})")]


def check_limits(limits: Limits, engines: Sequence[EngineResult | Mapping[str, Any]]) -> list[LimitResult]:
    """Every limit on every engine it applies to, in order of precision, limit and engine.

    `engines` may be records or their JSON form. An own section's null (`int8: {speedup: null}`) lifts a flat limit.
    """
    records = [e if isinstance(e, EngineResult) else EngineResult.model_validate(e) for e in engines]
    return [result for precision in PRECISIONS for limit, asked, own in _asked(limits, precision)
            for result in _check_precision(precision, limit, asked, own, records)]


def amount(limit: str, value: float) -> str:
    """A limit's value with its unit: '3×', '0.27 of FP32', '98.33 %'."""
    number = f"{value:,.0f}" if limit == "engine_bytes" else f"{value:.4g}" if value < 10 else f"{value:.5g}"
    return f"{number}{RULES[limit].unit if limit in RULES else ''}"


def asks(result: LimitResult) -> str:
    """What was asked, in words: 'at least 3×'."""
    at_least = RULES[result.limit].at_least if result.limit in RULES else True
    return f"{'at least' if at_least else 'at most'} {amount(result.limit, result.asked)}"


def found_words(result: LimitResult) -> str:
    """What was found: the figure, or the reason where there is none, or where the figure alone would hold the limit."""
    if result.found is None or result.held is False and result.reason and not _falls_short(result):
        return str(result.reason)
    return amount(result.limit, result.found)


def _falls_short(result: LimitResult) -> bool:
    rule = RULES.get(result.limit)
    if result.found is None or rule is None:
        return True
    return result.found < result.asked - SLACK if rule.at_least else result.found > result.asked + SLACK


def describe(result: LimitResult) -> str:
    """One line naming engine, limit, what was found and what was asked."""
    if result.found is not None and result.held is False and result.reason and not _falls_short(result):
        return f"{result.engine}: {result.limit}: not held: {result.reason}; asked {asks(result)}"
    if result.found is not None and result.held is not True and result.reason:
        return (f"{result.engine}: {result.limit}: found {amount(result.limit, result.found)}, asked {asks(result)}: "
                f"{result.reason}")
    if result.found is None:
        outcome = "not held" if result.held is False else "not checked"
        return f"{result.engine}: {result.limit}: {outcome}: {result.reason}; asked {asks(result)}"
    return f"{result.engine}: {result.limit}: found {amount(result.limit, result.found)}, asked {asks(result)}"


def broken(results: Iterable[LimitResult]) -> list[str]:
    """One message for each limit that does not hold (what `LimitsNotHeld` prints); empty when all is well."""
    return [describe(result) for result in results if result.held is False]


def matrix(results: Sequence[LimitResult]) -> tuple[list[str], dict[str, dict[str, LimitResult]]]:
    """The same results as a table: limits that occur, in RULES' order, and engine -> limit -> result."""
    rows: dict[str, dict[str, LimitResult]] = {}
    for result in results:
        rows.setdefault(result.engine, {})[result.limit] = result
    seen = {result.limit for result in results}
    return [limit for limit in RULES if limit in seen] + sorted(seen - set(RULES)), rows
