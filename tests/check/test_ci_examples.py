"""The shell lines of docs/ci.md run, in a folder as CI has it; what they need beyond our commands is left out."""

import shlex
from pathlib import Path

import pytest
import yaml
from check_runs import FP32, INT8, images, write, wrong_at

from toolchain.cli import main

DOC = (Path(__file__).parents[2] / "docs" / "ci.md").read_text()
GITHUB, GITLAB = (yaml.safe_load(block.split("```")[0]) for block in DOC.split("```yaml\n")[1:])
LINES = {
    "github": [step["run"] for step in GITHUB["jobs"]["gate"]["steps"] if "run" in step],
    "gitlab": GITLAB["gate"]["script"],
}
LABELS, KEYS = images(3000)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A checkout: recipes, and a build in the place of what `toolchain build` would leave."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(Path(__file__).parents[2] / "recipes")
    write(tmp_path / "build" / "vgg11_int8", LABELS, KEYS, {FP32: LABELS, INT8: wrong_at(LABELS, [3])})
    run("toolchain baseline build/vgg11_int8 -o baselines/vgg11_int8.json")
    return tmp_path


def run(line, code=0):
    words = shlex.split(line)
    assert words[0] == "toolchain", line
    with pytest.raises(SystemExit) as stop:
        main(words[1:])
    assert (stop.value.code or 0) == code, line


@pytest.mark.parametrize("server", LINES)
def test_the_lines_of_the_example_run(server, place, monkeypatch, capsys):
    install, build, check = LINES[server]
    assert install == "pip install ." and shlex.split(build)[-1] == "--quiet"
    run(build.replace("toolchain build", "toolchain validate").removesuffix(" --quiet"))  # built by .ci/run
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(place / "summary.md"))
    run(check)
    assert ("::notice" in capsys.readouterr().out) == ("--github" in check) == (place / "summary.md").is_file()
    assert (place / "check.xml").read_text().startswith("<?xml")


def test_a_regression_and_missing_evidence_have_the_codes_that_the_examples_name(place, capsys):
    check = LINES["gitlab"][2]
    write(place / "build" / "vgg11_int8", LABELS, KEYS, {FP32: LABELS, INT8: wrong_at(LABELS, range(60))})
    run(check, 11)
    assert "worse beyond chance" in capsys.readouterr().err
    write(place / "build" / "vgg11_int8", LABELS, KEYS, {FP32: LABELS})
    run(check, GITLAB["gate"]["allow_failure"]["exit_codes"])
    assert "is its runtime installed here?" in capsys.readouterr().err and (place / "check.json").is_file()
