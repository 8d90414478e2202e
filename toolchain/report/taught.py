"""What was taught, in words: the rows and sentences that report.md, report.html and the console share.

Nothing here knows Markdown or HTML: names stay as they are, and whoever prints them escapes them.
"""

from __future__ import annotations

from typing import NamedTuple

from toolchain.report.fidelity import EngineFidelity, Fidelity, GradCam, Interval, JitterFacts
from toolchain.report.schema import Report
from toolchain.report.words import NOTHING, best_engine, interval, percent

ROUNDING = 1e-12  # nats: the divergence of a network from itself is this much at most
ENGINE_TITLES = ("Engine", "Top-1 %", "KL nats", "KL ε nats", "JS nats", "Agreement %")
MAP_TITLES = ("Grad-CAM maps", "Student", "Random network", "Teacher", "Verdict")
JITTER_TITLES = ("Colour jitter", "Clean top-1 %", "Jittered top-1 %", "Drop, points", "Verdict")
MEANINGS = (
    ("KL", "KL(teacher ‖ student) at temperature 1, exact. 0 means that both give every class the same probability; it "
           "tells networks apart that are right equally often."),
    ("KL ε", "the same with 1e-10 added to every probability first, as some published figures have it: no single class "
             "can then add more than 23 nats."),
    ("JS", "Jensen-Shannon divergence, the same in both directions, from 0 to 0.693 (ln 2)."),
    ("Agreement", "share of images answered as the teacher answers them, right or wrong."),
)
MAP_MEANINGS = (
    "A map has no negative values, so any two have a positive cosine: it is only worth what it is above the random "
    "network, the student's architecture with random weights.",
    "The centred cosine (Pearson's correlation) takes each map's mean away first: about 0 for maps that have nothing "
    "to do with each other.",
    "A zero map says that nothing speaks for the class; its cosines count as 0.",
)


class EngineRow(NamedTuple):
    """One line of the first table; figures with their small print, "" where there is none."""

    name: str
    top1: str
    top1_interval: str
    kl: str
    kl_interval: str
    kl_epsilon: str
    js: str
    agreement: str
    agreement_interval: str


class MapRow(NamedTuple):
    """One line of the Grad-CAM table. tone: good, bad or plain."""

    what: str
    student: str
    student_interval: str
    random: str
    teacher: str
    verdict: str
    tone: str


class JitterRow(NamedTuple):
    """One line of the colour jitter table."""

    name: str
    clean: str
    jittered: str
    drop: str
    drop_interval: str
    verdict: str


def nats(value: float) -> str:
    """'1.8040', '0.0123', '0.00045': four decimals, and two digits at least; '0' for what only rounding has left."""
    if abs(value) < ROUNDING:
        return "0"
    return f"{value:.{_decimals(value)}f}" if abs(value) >= 1e-8 else f"{value:.1e}"


def to(found: Interval, digits: int) -> str:
    """An interval whose ends may be negative: '−0.28 to 1.11'."""
    return f"{minus(found.low, digits)} to {minus(found.high, digits)}"


def minus(value: float, digits: int) -> str:
    """A number with a true minus; zero has none."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def intro(found: Fidelity) -> str:
    """What the first table shows."""
    return (f"Each engine's answers beside the teacher's, on the same {found.images:,} test images in the same order. "
            "Ranges are 95 % intervals over the images.")


def engine_rows(found: Fidelity) -> list[EngineRow]:
    """The teacher first, then every engine that ran."""
    return [teacher_row(found), *map(engine_row, found.engines)]


def teacher_row(found: Fidelity) -> EngineRow:
    """Its own top-1; it is no student, so it has nothing else."""
    name = found.teacher.name if found.teacher.name == "teacher" else f"{found.teacher.name} (teacher)"
    return EngineRow(name, percent(found.teacher.top1_percent), interval(found.teacher.top1_interval),
                     NOTHING, "", NOTHING, NOTHING, NOTHING, "")


def engine_row(engine: EngineFidelity) -> EngineRow:
    """One student."""
    kl, agreement = engine.kl_nats, engine.agreement_percent
    return EngineRow(engine.name, percent(engine.top1_percent), "", nats(kl.value),
                     interval((kl.low, kl.high), _decimals(kl.value)), nats(engine.kl_epsilon_nats),
                     nats(engine.js_nats), percent(agreement.value), interval((agreement.low, agreement.high)))


def map_intro(found: GradCam) -> str:
    """Between what the maps are compared."""
    return (f"Where the float student looks for the class ({found.student_layer}), beside where the teacher looks "
            f"({found.teacher_layer}), on {found.grid[0]} × {found.grid[1]} positions.")


def map_rows(found: GradCam) -> list[MapRow]:
    """Both cosines beside the random network's, and how many maps are zero."""
    random_zero = NOTHING if found.random_zero_percent is None else f"{found.random_zero_percent:.1f} %"
    return [
        _cosine_row("Cosine", found.cosine, found.random_cosine),
        _cosine_row("Centred cosine", found.centred_cosine, found.random_centred_cosine),
        MapRow("Zero maps", f"{found.student_zero_percent:.1f} %", "", random_zero,
               f"{found.teacher_zero_percent:.1f} %", "", "plain"),
    ]


def no_maps(found: Fidelity) -> str:
    """Why there are no maps; "" where there are some."""
    return "" if found.gradcam else f"No Grad-CAM maps: {found.gradcam_reason or 'not asked for'}."


def jitter_intro(found: JitterFacts) -> str:
    """What was done to the images, and how to read the drop."""
    amounts = ", ".join(f"{name} {value:g}" for name, value in found.settings.items() if name != "seed")
    seed = f"; seed {found.settings['seed']:g}" if "seed" in found.settings else ""
    return (f"Top-1 on one frozen realisation of colour jitter ({amounts}{seed}), the same pixels for every network. "
            "Drop: clean minus jittered, image by image; no difference where its interval holds 0.")


def jitter_rows(found: Fidelity) -> list[JitterRow]:
    """The teacher first, then every engine; none without jitter."""
    if found.jitter is None:
        return []
    clean, jittered = found.teacher.top1_percent, found.jitter.teacher_top1_percent
    before = {engine.name: engine.top1_percent for engine in found.engines}
    drop = minus(clean - jittered, 2)
    rows = [JitterRow(teacher_row(found).name, percent(clean), percent(jittered), drop, "", NOTHING)]
    for engine in found.jitter.engines:
        lost = engine.drop
        verdict = "no difference" if lost.low <= 0 <= lost.high else f"top-1 {'lower' if lost.low > 0 else 'higher'}"
        rows.append(JitterRow(engine.name, percent(before.get(engine.name)), percent(engine.top1_percent),
                              minus(lost.value, 2), to(lost, 2), verdict))
    return rows


def summary(report: Report) -> str:
    """One line for the console: the first engine, and the fastest one below FP32; "" where nothing was compared."""
    if report.fidelity is None or not report.fidelity.engines:
        return ""
    best = best_engine(report)
    first, *others = report.fidelity.engines
    second = [e for e in others if best is not None and e.name == best.name]
    return f"KL to the teacher {_brief(first, 'agreement ')}" + "".join(f"; {_brief(e, '')}" for e in second)


def _brief(engine: EngineFidelity, label: str) -> str:
    return f"{nats(engine.kl_nats.value)} nats, {label}{percent(engine.agreement_percent.value)} % ({engine.name})"


def _decimals(value: float) -> int:
    """Decimals that keep two digits of a small value: 4, up to 8."""
    return next((digits for digits in range(4, 8) if abs(value) >= 10.0 ** (1 - digits)), 8) if value else 4


def _cosine_row(what: str, found: Interval, control: float) -> MapRow:
    verdict, tone = ("above random", "good") if found.low > control else (
        ("below random", "bad") if found.high < control else ("no difference", "plain"))
    return MapRow(what, minus(found.value, 3), to(found, 3), minus(control, 3), NOTHING, verdict, tone)
