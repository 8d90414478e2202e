import json
from xml.etree import ElementTree

from toolchain.check.console_table import print_verdict
from toolchain.check.finding import Finding, Tolerances
from toolchain.check.verdict import Verdict, to_annotations, to_json, to_junit, to_markdown

BAD = Finding("int8.ort", "classes", "regression", "worse: 'a|b,\n100 %\x00' -3.0 points", {"worse": 1})
VERDICT = Verdict("made", "b.json", Tolerances(), [
    BAD, Finding("int8.ort", "weights", "pass", "equal"), Finding("int4.ort", "latency", "not judged", "elsewhere"),
    Finding("int4.ort", "top-1", "not enough evidence", "900 images would decide")])


def test_junit_counts_and_keeps_what_xml_cannot_hold_out():
    root = ElementTree.fromstring(to_junit(VERDICT).encode())
    assert {key: root.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4", "failures": "1", "errors": "1", "skipped": "1"}
    suites = root.findall("testsuite")
    assert [suite.get("name") for suite in suites] == ["int8.ort", "int4.ort"]
    assert "100 %?" in suites[0].find("testcase/failure").get("message")
    assert suites[0].findall("testcase")[1].find("system-out").text == "equal"


def test_github_gets_one_line_an_annotation():
    lines = to_annotations(VERDICT).splitlines()
    assert lines[0] == "::error title=int8.ort classes::worse: 'a|b,%0A100 %25\x00' -3.0 points"
    assert lines[1] == "::warning title=int4.ort top-1::900 images would decide"
    assert lines[2].startswith("::notice title=toolchain check::made against b.json: regression (1 regression, ")
    assert len(lines) == 3


def test_notices_reach_every_reader_and_change_no_outcome(capsys):
    told = Verdict("made", "b.json", Tolerances(), [Finding("e", "weights", "pass", "equal")], ["twice as slow"])
    assert told.outcome == "pass" and json.loads(to_json(told))["notices"] == ["twice as slow"]
    assert "::notice title=toolchain check::twice as slow\n" in to_annotations(told)
    assert "Notice: twice as slow\n" in to_markdown(told)
    assert ElementTree.fromstring(to_junit(told).encode()).find("testsuite/system-out").text == "twice as slow"
    print_verdict(told)
    assert "notice: twice as slow\n" in capsys.readouterr().out


def test_the_summary_is_a_table_with_what_is_wrong_first():
    rows = [line for line in to_markdown(VERDICT).splitlines() if line.startswith("|")][2:]
    assert [row.split("|")[1].strip() for row in rows] == [
        "✗ regression", "? not enough evidence", "✓ pass", "– not judged"]
    assert "'a\\|b, 100 %" in rows[0]


def test_json_holds_every_figure_and_what_was_tolerated():
    content = json.loads(to_json(VERDICT))
    assert content["outcome"] == "regression" and content["tolerances"]["margin_points"] == 0.5
    assert content["findings"][0]["figures"] == {"worse": 1}


def test_people_see_what_is_wrong_and_a_row_for_all_that_passes(capsys):
    more = Finding("int8.ort", "engine file", "pass", "1,000 → 1,000 bytes")
    print_verdict(Verdict("made", "b.json", Tolerances(), [*VERDICT.findings, more]))
    shown = capsys.readouterr().out
    assert "2 quantities" in shown and "weights, engine file" in shown and "1,000" not in shown
    assert shown.rstrip().endswith("made against b.json: regression (1 regression, 1 not enough evidence, 2 pass, 1 not judged)")
    print_verdict(VERDICT, everything=True)
    assert "quantities" not in capsys.readouterr().out
