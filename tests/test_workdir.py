"""Stages are cached by content, appear whole or not at all, and are trusted only while their digests hold."""

import errno
import os
from pathlib import Path

import pytest

from toolchain.errors import DigestMismatch, WorkDirError
from toolchain.published import data_roots_of, proven, record
from toolchain.workdir import WorkDir, locked, sha256_file, stage_key


def make(text: str, calls: list[str] | None = None):
    def write(folder: Path) -> str:
        if calls is not None:
            calls.append(text)
        (folder / "file.txt").write_text(text)
        return "done"

    return write


def test_a_finished_stage_is_not_run_again(tmp_path: Path) -> None:
    calls: list[str] = []
    first = WorkDir(tmp_path).stage("a", make("1", calls), section={"x": 1})
    second = WorkDir(tmp_path).stage("a", make("1", calls), section={"x": 1})
    assert calls == ["1"]
    assert (first.cached, second.cached) == (False, True)
    assert second.seconds == first.seconds
    assert (second.folder / "file.txt").read_text() == "1"


def test_a_finished_stage_is_made_anew_when_asked_and_kept_until_the_new_one_is_whole(tmp_path: Path) -> None:
    calls: list[str] = []
    WorkDir(tmp_path).stage("a", make("1", calls))

    def failing(folder: Path) -> str:
        make("half")(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WorkDir(tmp_path, anew=("a",)).stage("a", failing)
    kept = WorkDir(tmp_path).stage("a", make("2", calls))
    assert kept.cached and (kept.folder / "file.txt").read_text() == "1"
    (kept.folder.with_name(f"{kept.folder.name}.partial") / "old").mkdir()  # as of one killed between two renames
    work = WorkDir(tmp_path, anew=("a",))
    anew = [work.stage("a", make("3", calls)) for _ in range(2)]  # named twice in a build, it is made once
    assert [one.cached for one in anew] == [False, True] and calls == ["1", "3"]
    assert sorted(path.name for path in anew[0].folder.iterdir()) == ["file.txt", "stage.json"]
    assert WorkDir(tmp_path).stage("a", make("4", calls)).cached and (anew[0].folder / "file.txt").read_text() == "3"


def test_a_stage_runs_again_when_its_section_an_input_or_a_version_changes() -> None:
    base = stage_key("a", {"x": 1}, ["k"], ["errors.py"], ["numpy"])
    assert base == stage_key("a", {"x": 1}, ["k"], ["errors.py"], ["numpy"])
    assert len({base, stage_key("a", {"x": 2}, ["k"], ["errors.py"], ["numpy"]),
                stage_key("a", {"x": 1}, ["j"], ["errors.py"], ["numpy"]),
                stage_key("a", {"x": 1}, ["k"], ["console.py"], ["numpy"]),
                stage_key("a", {"x": 1}, ["k"], ["errors.py"], ["absent-package"])}) == 5


def test_an_interrupted_stage_goes_on_from_what_it_left(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> str:
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WorkDir(tmp_path).stage("a", interrupted)

    def resumed(folder: Path) -> str:
        assert (folder / "half.txt").read_text() == "half"
        return "resumed"

    assert not WorkDir(tmp_path).stage("a", resumed).cached


def test_an_altered_file_is_named_and_never_used(tmp_path: Path) -> None:
    stage = WorkDir(tmp_path).stage("a", make("1"))
    (stage.folder / "file.txt").write_text("2")
    with pytest.raises(DigestMismatch, match="file.txt: SHA-256 is .* the file was altered: delete"):
        WorkDir(tmp_path).stage("a", make("1"))


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}"])
def test_a_damaged_record_is_named(tmp_path: Path, damage: str) -> None:
    stage = WorkDir(tmp_path).stage("a", make("1"))
    (stage.folder / "stage.json").write_text(damage)
    with pytest.raises(DigestMismatch, match="stage.json is missing or damaged"):
        WorkDir(tmp_path).stage("a", make("1"))


def test_a_dry_run_makes_nothing_and_tells_what_is_cached(tmp_path: Path) -> None:
    WorkDir(tmp_path).stage("a", make("1"))
    dry = WorkDir(tmp_path, dry=True)
    first = dry.stage("a", make("1"))
    dry.stage("b", make("2"), inputs=[first], packages=["numpy"])
    assert [(s.name, s.cached, s.needs) for s in dry.stages] == [("a", True, ()), ("b", False, ("a", "numpy"))]
    assert len(list((tmp_path / "stages").iterdir())) == 1


def test_a_full_disk_and_a_forbidden_folder_are_plain_sentences(tmp_path: Path) -> None:
    def full(folder: Path) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(WorkDirError, match="the disk is full; free some space and run the same command again"):
        WorkDir(tmp_path).stage("a", full)
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkDirError, match="cannot be written"):
        WorkDir(tmp_path / "file" / "out").stage("a", make("1"))


def test_a_published_file_follows_its_stage_and_an_altered_one_is_refused(tmp_path: Path) -> None:
    work = WorkDir(tmp_path / "out", cache=tmp_path / "cache")
    one, two = work.stage("a", make("1"), section=1), work.stage("a", make("2"), section=2)
    shown = work.publish(one.folder / "file.txt", "shown.txt")
    assert shown.read_text() == "1"
    assert work.publish(two.folder / "file.txt", "shown.txt").read_text() == "2"
    shown.unlink()
    shown.write_text("altered")
    with pytest.raises(DigestMismatch, match="shown.txt"):
        work.publish(two.folder / "file.txt", "shown.txt")
    assert sha256_file(two.folder / "file.txt") == "d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"


def test_what_is_shown_can_be_edited_in_place_without_harm_to_the_cache(tmp_path: Path) -> None:
    work = WorkDir(tmp_path)
    stage = work.stage("a", make("right"))
    shown = work.publish(stage.folder / "file.txt", "deep/shown.txt")
    with shown.open("r+") as file:
        file.write("wrong")
    again = WorkDir(tmp_path)
    assert (again.stage("a", make("never")).folder / "file.txt").read_text() == "right"
    with pytest.raises(DigestMismatch, match="shown.txt: SHA-256 is .* the file was altered: delete it and run"):
        again.publish(stage.folder / "file.txt", "deep/shown.txt")
    shown.unlink()
    assert again.publish(stage.folder / "file.txt", "deep/shown.txt").read_text() == "right"
    assert [path.name for path in shown.parent.iterdir()] == ["shown.txt"]


def test_a_hard_link_of_an_earlier_version_becomes_a_copy(tmp_path: Path) -> None:
    work = WorkDir(tmp_path)
    source = work.stage("a", make("1")).folder / "file.txt"
    os.link(source, tmp_path / "shown.txt")
    assert not work.publish(source, "shown.txt").samefile(source)


@pytest.mark.parametrize("without", [AttributeError, OSError, None])
def test_a_file_is_copied_where_the_kernel_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: type[Exception] | None) -> None:
    def refused(*of: int) -> int:
        if without:
            raise without
        return 0  # as some file systems answer

    monkeypatch.setattr(os, "copy_file_range", refused, raising=False)
    work = WorkDir(tmp_path)
    assert work.publish(work.stage("a", make("1")).folder / "file.txt", "shown.txt").read_text() == "1"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc here")
@pytest.mark.parametrize("place", ["/proc/toolchain", "/proc/toolchain/build"])
def test_a_folder_that_cannot_be_made_is_named(place: str) -> None:
    with pytest.raises(WorkDirError, match=rf"^{place}: cannot be written"), locked(Path(place)):
        pass


def test_two_builds_do_not_share_an_output_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(WorkDirError, match="another build is using this folder"), locked(tmp_path):
        pass


def test_two_builds_that_share_a_cache_make_a_stage_once(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = ("import sys, time; from pathlib import Path; from toolchain.workdir import WorkDir\n"
            "def make(folder):\n    time.sleep(1); (folder / 'made').write_text('x'); print('made')\n"
            "WorkDir(Path(sys.argv[1]), Path(sys.argv[2])).stage('a', make)")
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / n), str(tmp_path / "cache")],
                             stdout=subprocess.PIPE, text=True) for n in ("one", "two")]
    answers = [process.communicate(timeout=60)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(answers) == ["", "made"]


def test_a_file_of_an_earlier_build_is_withdrawn_but_an_altered_one_stays(tmp_path: Path) -> None:
    work = WorkDir(tmp_path)
    stage = work.stage("a", make("1"))
    for name in ("map.png", "mine.png"):
        work.publish(stage.folder / "file.txt", name)
    (tmp_path / "mine.png").unlink()
    (tmp_path / "mine.png").write_text("altered")
    for name in ("map.png", "mine.png", "never.png"):
        work.withdraw(name)
    assert not (tmp_path / "map.png").exists() and (tmp_path / "mine.png").read_text() == "altered"
    assert (tmp_path / "published.json").read_text() == "{}"
    assert (stage.folder / "file.txt").read_text() == "1", "the stage keeps its own"


def finished_build(out: Path, cache: Path) -> WorkDir:
    work = WorkDir(out, cache)
    work.start("old recipe", [out])
    for name in ("kept.txt", "gone.txt"):
        work.publish(work.stage("a", make("old")).folder / "file.txt", name)
    work.show()
    (out / "report.json").write_text("old report")
    record(out, "report.json", "recipe.resolved.yaml")
    return WorkDir(out, cache)


def test_what_a_finished_build_shows_stays_whole_until_the_next_one_is_done(tmp_path: Path) -> None:
    out = tmp_path / "out"
    work = finished_build(out, tmp_path / "cache")
    before = {path: path.read_bytes() for path in out.rglob("*")}
    new = work.stage("a", make("new"), section=2).folder / "file.txt"
    work.start("new recipe", [tmp_path])
    for name in ("kept.txt", "more.txt"):
        work.publish(new, name)
    work.withdraw("gone.txt")
    assert {path: path.read_bytes() for path in out.rglob("*")} == before  # what a killed build leaves
    work.show()
    assert {name: (out / name).read_text() for name in ("kept.txt", "more.txt", "recipe.resolved.yaml")} == {
        "kept.txt": "new", "more.txt": "new", "recipe.resolved.yaml": "new recipe"}
    assert not (out / "gone.txt").exists() and data_roots_of(out) == [tmp_path]
    with pytest.raises(WorkDirError, match="the last build there did not finish"):
        proven(out, "report.json")  # it is of the files before


def test_what_no_report_is_about_is_shown_at_once_and_leaves_the_report_proven(tmp_path: Path) -> None:
    work = finished_build(tmp_path / "out", tmp_path / "cache")
    work.publish(work.stage("scan", make("scan")).folder / "file.txt", "scan.txt", beside=True)
    assert proven(tmp_path / "out", "scan.txt").read_text() == "scan"
    assert proven(tmp_path / "out", "report.json").read_text() == "old report"


def test_an_altered_file_of_a_finished_build_stops_the_next_one_before_its_end(tmp_path: Path) -> None:
    work = finished_build(tmp_path / "out", tmp_path / "cache")
    (tmp_path / "out" / "kept.txt").write_text("mine")
    with pytest.raises(DigestMismatch, match="kept.txt"):
        work.publish(work.stage("a", make("new"), section=2).folder / "file.txt", "kept.txt")
