"""The gate's result as JSON, as JUnit XML for a CI server's test page, and as GitHub's annotations and summary."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

from toolchain.check.finding import Finding, Tolerances, overall
from toolchain.check.paired import Outcome
from toolchain.files import json_with, refuse_other

MARKS: dict[Outcome, str] = {"regression": "✗", "not enough evidence": "?", "pass": "✓", "not judged": "–"}
COMMANDS: dict[Outcome, str] = {"regression": "error", "not enough evidence": "warning"}
ELEMENTS: dict[Outcome, str] = {"regression": "failure", "not enough evidence": "error", "not judged": "skipped"}
XML_HEAD = 4096  # bytes in which the root element begins
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Verdict:
    """Everything that was found of the run `name` against the file `baseline`. notices: to be known, of no outcome."""

    name: str
    baseline: str
    asked: Tolerances
    findings: Sequence[Finding]
    notices: Sequence[str] = ()

    @property
    def outcome(self) -> Outcome:
        """The worst there is."""
        return overall(self.findings)

    def those(self, outcome: Outcome) -> list[Finding]:
        """The findings with this outcome."""
        return [finding for finding in self.findings if finding.outcome == outcome]

    def headline(self) -> str:
        """'vgg11_int8 against baselines/vgg11_int8.json: pass (41 pass, 5 not judged)'."""
        counts = ", ".join(f"{len(those)} {outcome}" for outcome in MARKS if (those := self.those(outcome)))
        return f"{self.name} against {self.baseline}: {self.outcome} ({counts or 'nothing to judge'})"


def refuse_replaced(json_file: Path | None, junit: Path | None) -> None:
    """Raise RecipeError where a file is there that no such verdict would replace; WorkDirError."""
    if json_file:
        refuse_other(json_file, "a verdict of `check` in JSON", json_with("outcome", "tolerances", "findings"))
    if junit:
        refuse_other(junit, "JUnit XML", lambda content: content.lstrip().startswith(b"<")
                     and b"<testsuite" in content[:XML_HEAD])


def to_json(verdict: Verdict) -> str:
    """One object; the same findings give the same bytes."""
    content = {"schema_version": 1, "outcome": verdict.outcome, "run": verdict.name, "baseline": verdict.baseline,
               "tolerances": asdict(verdict.asked), "notices": list(verdict.notices),
               "findings": [asdict(finding) for finding in verdict.findings]}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_junit(verdict: Verdict) -> str:
    """A test suite an engine, a test case a quantity: regression is a failure, not enough evidence an error."""
    engines: dict[str, list[Finding]] = {}
    for finding in verdict.findings:
        engines.setdefault(finding.engine, []).append(finding)
    title = _xml(f"toolchain check {verdict.name}")
    root = ElementTree.Element("testsuites", _counts(verdict.findings) | {"name": title})
    for engine, findings in engines.items():
        suite = ElementTree.SubElement(root, "testsuite", _counts(findings) | {"name": _xml(engine)})
        for finding in findings:
            case = ElementTree.SubElement(suite, "testcase", classname=_xml(engine), name=_xml(finding.what), time="0")
            if kind := ELEMENTS.get(finding.outcome):
                ElementTree.SubElement(case, kind, message=_xml(finding.told))
            else:
                ElementTree.SubElement(case, "system-out").text = _xml(finding.told)
    if verdict.notices and len(root):
        ElementTree.SubElement(root[0], "system-out").text = _xml("\n".join(verdict.notices))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def to_annotations(verdict: Verdict) -> str:
    """Lines that GitHub's runner turns into annotations: an error a regression, a warning where evidence is missing, a
    notice what is to be known and the headline."""
    lines = [f"::{COMMANDS[finding.outcome]} title={_property(f'{finding.engine} {finding.what}')}::"
             f"{_data(finding.told)}" for outcome in COMMANDS for finding in verdict.those(outcome)]
    lines += [f"::notice title=toolchain check::{_data(told)}" for told in (*verdict.notices, verdict.headline())]
    return "\n".join(lines) + "\n"


def to_markdown(verdict: Verdict) -> str:
    """A table for a job's summary page."""
    rows = [f"| {MARKS[f.outcome]} {f.outcome} | `{_cell(f.engine)}` | {_cell(f.what)} | {_cell(f.told)} |"
            for f in sorted(verdict.findings, key=lambda f: list(MARKS).index(f.outcome))]
    return "\n".join([f"### {_cell(verdict.headline())}", "", "| outcome | engine | quantity | found |",
                      "| --- | --- | --- | --- |", *rows, "",
                      *(f"Notice: {_cell(told)}\n" for told in verdict.notices), verdict.asked.told(), ""])


def _counts(findings: Iterable[Finding]) -> dict[str, str]:
    outcomes = [finding.outcome for finding in findings]
    return {"tests": str(len(outcomes)), "failures": str(outcomes.count("regression")),
            "errors": str(outcomes.count("not enough evidence")), "skipped": str(outcomes.count("not judged"))}


def _xml(text: str) -> str:
    return NOT_XML.sub("?", text)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
