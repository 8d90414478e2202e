"""A comparison as people read it: the table on stdout, and compare.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.report.markdown import code, escape, table
from toolchain.report.taught import nats
from toolchain.report.words import NOTHING, interval, percent, signed

PLAIN_WIDTH = 160  # columns where stdout is no terminal
NEARER = {"lower": "nearer to the teacher", "higher": "farther from the teacher"}
Cell = tuple[str, str]  # a figure, and what stands after or under it
Found = Mapping[str, Any]  # what compare.json holds


def print_comparison(found: Found) -> None:
    """The table on stdout: the teacher, then a row per student; then how the students differ from the first one."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    grid = Table(box=None, header_style="bold", title=headline(found), title_justify="left", padding=(0, 2, 0, 0))
    titles, rows = cells(found)
    for index, title in enumerate(titles):
        grid.add_column(title, justify="right" if index else "left", overflow="fold")
    for row in rows:
        grid.add_row(*("\n".join(cell).rstrip() for cell in row))
    lines = [*difference_lines(found), *(f"no Grad-CAM: {reason}" for reason in reasons(found))]
    encodable = console.encoding.startswith("utf")
    with console.capture() as captured:
        console.print(grid, markup=False)
        for line in lines:
            console.print(line, markup=False, soft_wrap=True)
    text = captured.get()
    console.file.write(text if encodable else text.translate(ASCII).encode("ascii", "replace").decode())


ASCII = str.maketrans({"–": "-", "−": "-", "×": "x", "ε": "eps"})


def render_markdown(found: Found) -> str:
    """compare.md as text; the same comparison gives the same bytes."""
    titles, rows = cells(found)
    figures = table(titles, [[code(row[0][0]), *(_inline(cell) for cell in row[1:])] for row in rows])
    files = table(["Network", "Role", "Path", "Engine", "SHA-256 begins"],
                  [[code(one["name"]), role, code(one["path"]), code(one["engine"]) if one["engine"] else "ONNX file",
                    code(one["sha256"][:16])] for role, one in _everyone(found)], left=5)
    differences = "\n".join(f"- {escape(line)}" for line in difference_lines(found))
    sheet = f"![Image, the teacher's map and every student's]({found['sheet']})" if found["sheet"] else ""
    sections = [f"# {escape(headline(found))}", figures, differences and f"## Students compared\n{differences}",
                (sheet or reasons(found)) and "## Where they look\n" + "\n".join(
                    [*(f"- {escape(line)}" for line in map_lines(found)),
                     *(f"- no Grad-CAM: {escape(reason)}" for reason in reasons(found))]), sheet,
                "## How to read this\n" + "\n".join(f"- {line}" for line in notes(found)),
                f"## Networks\n{files}"]
    return "\n\n".join(section for section in sections if section) + "\n"


def headline(found: Found) -> str:
    """'2 students and their teacher on 359 test images of digits'."""
    students = len(found["students"])
    return (f"{students} student{'s' * (students > 1)} and {found['teacher']['name']}, the teacher, on "
            f"{found['images']:,} test images of {found['dataset']}")


def cells(found: Found) -> tuple[list[str], list[list[Cell]]]:
    """Titles of the columns, and a row per network, the teacher first."""
    mapped = any(row["gradcam"] for row in found["students"])
    titles = ["Network", "Top-1 %", "KL nats", "ε-KL nats", "JS nats", "Agreement %"]
    titles += ["Grad-CAM cosine", "Centred cosine"] * mapped
    titles += ["Jittered top-1 %", "Drop, points"] * bool(found["jitter"])
    return titles, [_row(role, one, mapped) for role, one in _everyone(found)]


def difference_lines(found: Found) -> list[str]:
    """How each student differs from the first one: KL, top-1, and top-1 on jittered images."""
    lines = []
    for one in found["differences"]:
        kl, verdict = one["kl_nats"], one["kl_nats"]["verdict"]
        parts = [f"KL {signed_nats(kl['value'])} nats ({signed_nats(kl['low'])} to {signed_nats(kl['high'])}): "
                 f"{NEARER.get(verdict, verdict)}"]
        for key, title in (("top1_percent", "top-1"), ("jittered_top1_percent", "jittered top-1")):
            if found_one := one[key]:
                parts.append(f"{title} {signed(found_one['value'])} points ({signed(found_one['low'])} to "
                             f"{signed(found_one['high'])}): {found_one['verdict']}")
        lines.append(f"{one['name']} against {one['versus']}: {'; '.join(parts)}")
    return lines


def map_lines(found: Found) -> list[str]:
    """Per student: which layers, on which grid, and how many maps hold nothing."""
    return [f"{one['name']}: {maps['student_layer']} against the teacher's {maps['teacher_layer']} on a "
            f"{maps['grid'][0]}×{maps['grid'][1]} grid; maps without evidence for the class, counted as cosine 0: "
            f"{maps['student_zero_percent']:.1f} % of the student's, {maps['teacher_zero_percent']:.1f} % of the "
            "teacher's"
            for one in found["students"] if (maps := one["gradcam"])]


def reasons(found: Found) -> list[str]:
    """Why maps are missing, each reason once; nothing where none were asked for."""
    given = [one["gradcam_reason"] for one in found["students"] if one["gradcam_reason"]]
    return [reason for reason in dict.fromkeys(given) if reason != "not asked for"]


def notes(found: Found) -> list[str]:
    """What the figures are, and what they cannot say."""
    lines = [
        "KL is KL(teacher ‖ student) at temperature 1, the mean over the test images; ε-KL adds 1e-10 to every "
        "probability of both first. JS is at most ln 2 = 0.693 nats. Agreement counts equal answers, right or wrong.",
        "Every network saw the same images in the same order, on the engine named below. Intervals are 95 %: Wilson's "
        "for top-1, else a bootstrap over the test images, paired for differences; where one holds 0 there is no "
        "difference.",
        "Each network is one training. How much another seed would change it is not in these intervals: `toolchain "
        "study` compares over seeds."]
    if found["sheet"]:
        lines.append("Grad-CAM maps are of the float networks in `student/`, whatever engine answers. Maps are never "
                     "negative, so unrelated ones are alike too: compare with the student's architecture with random "
                     "weights (“random”), or read the centred cosine.")
    if found["jitter"]:
        settings = ", ".join(f"{key} {value:g}" for key, value in found["jitter"].items())
        lines.append(f"Jittered: one realisation of random colours, the same for all networks ({settings}).")
    return lines


def signed_nats(value: float) -> str:
    """A divergence with a sign and a true minus: '+0.5000', '−0.00045'; '0' has none."""
    text = nats(abs(value))
    return text if text == "0" else ("+" if value > 0 else "−") + text


def cosine(value: float) -> str:
    """'0.359', '−0.063'."""
    return f"{value:.3f}".replace("-", "−")


def _everyone(found: Found) -> list[tuple[str, Mapping[str, Any]]]:
    return [("teacher", found["teacher"]), *(("student", one) for one in found["students"])]


def _row(role: str, one: Mapping[str, Any], mapped: bool) -> list[Cell]:
    cells: list[Cell] = [(one["name"], role), (percent(one["top1_percent"]), interval(one["top1_interval"]))]
    if role == "teacher":
        cells += [(NOTHING, "")] * (4 + 2 * mapped)
    else:
        kl, agreement = one["kl_nats"], one["agreement_percent"]
        cells += [(nats(kl["value"]), f"{nats(kl['low'])}–{nats(kl['high'])}"), (nats(one["kl_epsilon_nats"]), ""),
                  (nats(one["js_nats"]), ""),
                  (percent(agreement["value"]), interval((agreement["low"], agreement["high"])))]
        if mapped:
            cells += _map_cells(one["gradcam"])
    if jitter := one["jitter"]:
        drop = jitter["drop"]
        cells += [(percent(jitter["top1_percent"]), ""),
                  (signed(drop["value"]), f"{signed(drop['low'])} to {signed(drop['high'])}")]
    return cells


def _map_cells(maps: Mapping[str, Any] | None) -> Sequence[Cell]:
    if maps is None:
        return [(NOTHING, "")] * 2
    return [(cosine(maps[key]["value"]), f"{cosine(maps[key]['low'])} to {cosine(maps[key]['high'])}; random "
             f"{cosine(maps['random_' + key])}") for key in ("cosine", "centred_cosine")]


def _inline(cell: Cell) -> str:
    return f"{cell[0]} ({cell[1]})" if cell[1] else cell[0]
