"""Jobs on a device: engines built there, golden answers, accuracy and latency, and what a second call of each does."""

from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from color_bundle import PREPROCESS, QUICK_JOB, TARGET, color_net, engine_of_job, job_file, logits, pictures, stored
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolchain.data.preprocess import Preprocess
from toolchain.measure.accuracy import image_keys, top_classes
from toolchain.runner import commands, jobs, place
from toolchain.runner.place import locked


def call(capsys: pytest.CaptureFixture[str], folder: Path, *words: object) -> tuple[int, dict[str, Any], str]:
    said = ["--folder", str(folder), *map(str, words)]
    code = commands.answered(commands._parser(said).parse_args(said))
    shown = capsys.readouterr()
    assert "internal error" not in shown.err
    return code, json.loads(shown.out.splitlines()[-1]) if code == 0 else {}, shown.err


def packed(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def array(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job about two engines, one of which takes batches of 2 alone, with an evaluation set in two files."""
    shown, folder = pictures(7), tmp_path / "device"
    labels = np.array([0, 1, 2, 0, 1, 0, 0])  # the network answers 0 1 2 0 1 2 0: six of seven
    sets = [stored(folder, packed(images=shown[:4], labels=labels[:4])), stored(folder, packed(images=shown[4:], labels=labels[4:]))]
    golden = {"images": stored(folder, array(shown[:3])), "engines": {
        "one": {"logits": stored(folder, array(logits(shown[:3]).astype(np.float32))), "tolerance": 0.01},
        "two": {"logits": stored(folder, array(logits(shown[:3]).astype(np.float32))), "tolerance": 0.01}}}
    return job_file(folder, id="j1", threads=1, preprocess=PREPROCESS, images=sets, golden=golden, bench=QUICK_JOB, engines=[
        engine_of_job("one", onnx=stored(folder, color_net())),
        engine_of_job("two", onnx=stored(folder, color_net(2.0, batch=2)), weight_bytes=36)])


def test_a_job_from_onnx_file_to_latency(job: Path, capsys) -> None:
    folder = job.parent
    code, built, _ = call(capsys, folder, "build", job)
    assert code == 0 and not built["cached"]
    record = json.loads((folder / built["engines"]["two"]["folder"] / "engine.json").read_text())
    assert (record["name"], record["target"], record["weight_bytes"]) == ("two", TARGET, 36)
    assert record["sha256"] == record["onnx_sha256"] == built["engines"]["two"]["sha256"]

    _, told, _ = call(capsys, folder, "golden", job)
    assert told["engines"]["one"]["held"] and told["engines"]["one"]["distance"] < 1e-5
    two = told["engines"]["two"]  # twice the logits: the answers are the same, and they are |2x - x| / |x| = 1 away
    assert two["same_answers"] and not two["held"] and two["distance"] == pytest.approx(1)

    _, told, _ = call(capsys, folder, "accuracy", job)
    assert told["images"] == 7 and told["engines"]["two"]["top1_percent"] == pytest.approx(100 * 6 / 7)
    images = Preprocess.from_json(PREPROCESS).normalize(pictures(7))
    with np.load(folder / told["file"]) as found:
        assert found["labels"].tolist() == [0, 1, 2, 0, 1, 0, 0]
        assert found["keys"].tolist() == image_keys(images).tolist()
        for name in ("one", "two"):
            assert found[name].tolist() == top_classes(logits(pictures(7)).astype(np.float32)).tolist()

    _, told, _ = call(capsys, folder, "bench", job)
    with np.load(folder / told["file"]) as found:
        assert {name: found[name].shape for name in found} == {"one": (4, 3), "two": (4, 3)}
        assert told["engines"]["one"]["p50"] == pytest.approx(np.median(found["one"]))
    assert told["engines"]["one"]["input"] == [2, 3, 4, 4] and told["engines"]["one"]["n"] == 12
    assert told["threads"] == 1 and told["engines"]["one"]["validity"]["attempts"] == 1 and "before" in told["conditions"]


def test_a_second_call_is_answered_from_what_is_there(job: Path, capsys, monkeypatch) -> None:
    call(capsys, job.parent, "build", job)
    first = call(capsys, job.parent, "bench", job)[1]
    monkeypatch.setitem(jobs.COMMANDS, "bench", lambda job: pytest.fail("it is done already"))
    second = call(capsys, job.parent, "bench", job)[1]
    assert second.pop("cached") and not first.pop("cached") and first == second
    (job.parent / first["file"]).unlink()
    monkeypatch.setitem(jobs.COMMANDS, "bench", lambda job: {"engines": {}, "again": True})
    assert call(capsys, job.parent, "bench", job)[1]["again"]


@pytest.mark.parametrize("other", [{"runtimes": {"onnxruntime": "0.1"}}, {"power_mode": "15W"}, {"runner": "earlier"}])
def test_what_the_device_answered_as_another_is_asked_anew(other: dict[str, Any], job: Path, capsys, monkeypatch) -> None:
    before = {**jobs.surroundings(), **other}
    with monkeypatch.context() as then:
        then.setattr(jobs, "surroundings", lambda: before)
        call(capsys, job.parent, "build", job)
    monkeypatch.setitem(jobs.COMMANDS, "build", lambda job: {"engines": {}, "again": True})
    assert call(capsys, job.parent, "build", job)[1]["again"]
    assert call(capsys, job.parent, "build", job)[1]["cached"]


@pytest.mark.parametrize(("verdict", "sent_anew", "cached"), [
    ("valid", True, True), ("inconclusive", False, True), ("inconclusive", True, False)])
def test_an_inconclusive_latency_is_measured_again_for_who_asks_anew_and_not_after_a_cut(
    verdict: str, sent_anew: bool, cached: bool, job: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setitem(jobs.COMMANDS, "bench", lambda job: {"engines": {"one": {"validity": {"verdict": verdict}}}})
    call(capsys, job.parent, "bench", job)
    when = (job.parent / "runs/j1/bench.json").stat().st_mtime_ns + (1 if sent_anew else -1)
    os.utime(job, ns=(when, when))
    assert call(capsys, job.parent, "bench", job)[1]["cached"] == cached


def test_a_job_at_work_is_not_dropped(job: Path, capsys) -> None:
    with locked(job.parent / "runs/j1/bench.lock", ""):
        code, _, told = call(capsys, job.parent, "drop", "j1")
    assert code == 14 and "the job j1 is at work" in told and (job.parent / "runs/j1").is_dir()


def test_another_job_under_the_same_id_is_done_anew_and_its_engine_with_it(job: Path, capsys) -> None:
    call(capsys, job.parent, "build", job)
    content = json.loads(job.read_text())
    content["engines"] = [{**content["engines"][0], "onnx": stored(job.parent, color_net(7.0))}]
    job.write_text(json.dumps(content))
    found = call(capsys, job.parent, "build", job)[1]
    assert not found["cached"] and found["engines"]["one"]["sha256"] == content["engines"][0]["onnx"]


def test_who_comes_while_the_job_is_done_waits_and_gets_its_answer(job: Path, capsys, monkeypatch) -> None:
    call(capsys, job.parent, "build", job)
    done = job.parent / "runs/j1/accuracy.json"
    answer = {"engines": {"one": {"top1_percent": 1.0}}, "images": 7, "job": json.loads(job.read_text()), "on": jobs.surroundings()}
    lock = locked(job.parent / "runs/j1/accuracy.lock", "")
    lock.__enter__()

    def finish() -> None:
        done.write_text(json.dumps(answer))
        lock.__exit__(None, None, None)

    said: list[str] = []
    monkeypatch.setattr(place, "progress", lambda doing: (said.append(doing), threading.Timer(0.05, finish).start()))
    monkeypatch.setitem(jobs.COMMANDS, "accuracy", lambda job: pytest.fail("somebody else did it"))
    assert call(capsys, job.parent, "accuracy", job)[1]["engines"]["one"]["top1_percent"] == 1.0
    assert said == ["waiting for the same job"]


def test_one_engine_that_cannot_be_built_does_not_stop_the_others(job: Path, capsys) -> None:
    content = json.loads(job.read_text())
    content["engines"][1]["onnx"] = stored(job.parent, b"no network")
    job.write_text(json.dumps(content))
    code, built, _ = call(capsys, job.parent, "build", job)
    assert code == 0 and "refuses it" in built["engines"]["two"]["error"] and "sha256" in built["engines"]["one"]
    assert set(call(capsys, job.parent, "accuracy", job)[1]["engines"]) == {"one"}
    content["engines"] = content["engines"][1:]
    job.write_text(json.dumps(content))
    code, _, told = call(capsys, job.parent, "build", job)
    assert code == 14 and "refuses it" in told


def test_a_finished_engine_is_timed_as_it_came_on_noise(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "device"
    file = job_file(folder.parent, id="j2", bench={**QUICK_JOB, "batch": 3}, engines=[
        engine_of_job("m.onnx", file=stored(folder, color_net()))])
    code, told, _ = call(capsys, folder, "bench", file)
    assert code == 0 and told["engines"]["m.onnx"]["input"] == [3, 3, 4, 4]
    assert told["engines"]["m.onnx"]["boundary"] == "device only"


@pytest.mark.parametrize(("change", "told"), [
    ({"id": "../x"}, "found the job id '../x'"), ({"id": 3}, "found the job id 3"), ({"more": 1}, "expected id, engines"),
    ({"engines": []}, "expected id, engines"), ({"engines": [{"name": "a/b"}]}, "expected name, runtime, target"),
    ({"threads": 0}, "threads 0"), ({"bench": {"rounds": 0}}, "found rounds 0"), ({"bench": {"round": 1}}, "found round 1"),
    ({"bench": {"batch": 3}}, "two: takes batches of 2 to 2, found 3"), ({"images": ["0" * 64]}, "push it first"),
    ({"preprocess": {"mean": 3}}, "is not as expected"),
])
def test_what_is_no_job_is_told_in_a_sentence(change: dict[str, Any], told: str, job: Path, capsys) -> None:
    call(capsys, job.parent, "build", job)
    job.write_text(json.dumps({**json.loads(job.read_text()), **change}))
    code, _, found = call(capsys, job.parent, "bench", job)
    assert (code, told in found) == (14, True), found


def test_a_job_before_its_build_says_so(job: Path, capsys) -> None:
    assert "one: is not built on this device yet; say build first" in call(capsys, job.parent, "bench", job)[2]


def test_an_engine_that_was_altered_since_is_not_run(job: Path, capsys) -> None:
    call(capsys, job.parent, "build", job)
    (job.parent / "runs/j1/engines/one/engine.onnx").write_bytes(color_net(3.0))
    code, _, told = call(capsys, job.parent, "accuracy", job)
    assert code == 14 and "was altered since it was built" in told
    assert call(capsys, job.parent, "build", job)[1]["engines"]["one"]["sha256"]  # and is built again
    assert call(capsys, job.parent, "drop", "j1")[1] == {"dropped": ["j1"]}
    assert not (job.parent / "runs/j1").exists()


JSON = st.recursive(st.none() | st.booleans() | st.integers(-3, 40) | st.floats(allow_nan=False) | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
                        [*jobs.FIELDS, *jobs.OF_ENGINE, "logits", "tolerance"]), inner, max_size=4), max_leaves=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(change=st.dictionaries(st.sampled_from(sorted(jobs.FIELDS)), JSON, min_size=1, max_size=3), command=st.sampled_from(sorted(jobs.COMMANDS)))
def test_no_job_file_ends_in_anything_but_a_sentence(change: dict[str, Any], command: str, job: Path, capsys) -> None:
    job.with_name("other.json").write_text(json.dumps({**json.loads(job.read_text()), "id": "fuzz", "bench": QUICK_JOB, **change}))
    code, _, told = call(capsys, job.parent, command, job.with_name("other.json"))
    assert code == 0 or (code == 14 and told.strip() and "Traceback" not in told)
