import json

import numpy as np
import pytest
from check_runs import FP32, INT8, images, made, write, wrong_at
from hypothesis import given
from hypothesis import strategies as st

from toolchain.check.baseline import load_baseline, make_baseline
from toolchain.check.finished_run import read_run
from toolchain.check.pack import unpacked
from toolchain.errors import DataError, DigestMismatch, ToolchainError

LABELS, KEYS = images(500)
ANSWERS = {FP32: wrong_at(LABELS, [1, 2]), INT8: wrong_at(LABELS, [2, 3, 4])}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "b.json"
    path.write_text(make_baseline(made(LABELS, KEYS, ANSWERS)).to_json())
    return path


def test_a_baseline_reads_back_and_holds_each_answer(file):
    found = load_baseline(file)
    order = np.argsort(KEYS)
    expected = np.where(ANSWERS[INT8] == LABELS, 0, ANSWERS[INT8] + 1)[order]
    assert unpacked(found.engines[INT8].answers, 500).tolist() == expected.tolist()
    assert found.images.n == 500 and found.engines[INT8].latency_reference == FP32
    assert len(found.engines[INT8].speedup_by_round.split()) == 20
    assert found.engines[FP32].speedup_by_round is None  # it is what the others are divided by
    assert found.to_json() == file.read_text()


def test_a_folder_read_in_another_order_gives_the_same_bytes(tmp_path):
    order = np.random.default_rng(0).permutation(500)
    one = write(tmp_path / "one", LABELS, KEYS, ANSWERS)
    other = write(tmp_path / "other", LABELS[order], KEYS[order], {name: given[order] for name, given in ANSWERS.items()})
    assert make_baseline(read_run(one)).to_json() == make_baseline(read_run(other)).to_json()
    assert make_baseline(read_run(one)).to_json() == make_baseline(made(LABELS, KEYS, ANSWERS)).to_json()


def test_images_that_are_there_twice_are_in_one_order_too():
    keys, labels = np.array([7, 7, 7, 5], np.uint64), np.array([1, 0, 1, 2])
    answers = {FP32: np.array([1, 1, 3, 2]), INT8: np.array([1, 0, 1, 2])}
    texts = {make_baseline(made(labels[p], keys[p], {n: a[p] for n, a in answers.items()})).to_json()
             for p in (np.array(order) for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]))}
    assert len(texts) == 1


def test_ten_thousand_images_and_eight_engines_take_tens_of_kilobytes():
    labels, keys = images(10_000)
    rng = np.random.default_rng(0)
    answers = {name: wrong_at(labels, rng.choice(10_000, 1600)) for name in (FP32, *(f"e{i}" for i in range(7)))}
    assert len(make_baseline(made(labels, keys, answers)).to_json()) < 40_000


@pytest.mark.parametrize(("change", "words"), [
    (lambda c: c.update(schema_version=2), "schema_version: found 2, expected 1"),
    (lambda c: c["images"].update(n=501), "the packed answers are not those of 501 images"),
    (lambda c: c["images"].update(n=10**12), "images.n: Input should be less than or equal to"),
    (lambda c: c["engines"][INT8].update(answers="uint8:????"), "damaged"),
    (lambda c: c["engines"][INT8].update(speedup_by_round="1 nan"), "expected finite ratios"),
    (lambda c: c["engines"][INT8].update(engine_bytes=-1), "engine_bytes"),
    (lambda c: c.pop("engines"), "engines: Field required"),
])
def test_a_baseline_that_was_edited_is_refused_by_file_and_field(file, change, words):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ToolchainError, match="b.json") as error:
        load_baseline(file)
    assert words in str(error.value) and "Value error" not in str(error.value)


def test_a_baseline_that_is_none_is_refused(tmp_path):
    for content, words in ((b"\xff\xfe", "not JSON"), (b"<<<<<<< HEAD", "not JSON"), (b"[" * 100_000, "not JSON"),
                           (b"[]", "schema_version: found None")):
        (tmp_path / "b.json").write_bytes(content)
        with pytest.raises(ToolchainError, match=words):
            load_baseline(tmp_path / "b.json")
    with pytest.raises(ToolchainError, match="cannot be read"):
        load_baseline(tmp_path / "none.json")


@given(st.data())
def test_any_damage_ends_in_a_sentence_or_a_baseline(tmp_path_factory, data):
    text = make_baseline(made(LABELS[:20], KEYS[:20], {FP32: LABELS[:20]})).to_json()
    at, what = data.draw(st.integers(0, len(text) - 1)), data.draw(st.text(max_size=3))
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_text(text[:at] + what + text[at + data.draw(st.integers(0, 3)):], encoding="utf-8", errors="replace")
    try:
        load_baseline(path)
    except ToolchainError as error:
        assert "damaged.json" in str(error)


def test_a_folder_that_is_no_finished_build_is_refused(tmp_path):
    with pytest.raises(ToolchainError, match="has no report.json"):
        read_run(tmp_path)
    folder = write(tmp_path / "run", LABELS, KEYS, ANSWERS)
    (folder / "predictions.npz").write_bytes(b"x")
    with pytest.raises(DigestMismatch, match="predictions.npz: SHA-256 is"):
        read_run(folder)
    (folder / "predictions.npz").unlink()
    with pytest.raises(ToolchainError, match="predictions.npz: is missing"):
        read_run(folder)


def test_a_build_without_keys_or_without_an_engine_that_runs_here_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no keys of the test images"):
        read_run(write(tmp_path / "old", LABELS, np.empty(0, np.uint64), ANSWERS))
