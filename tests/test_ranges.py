"""Ranges on disk."""

import json

import pytest

from toolchain.errors import OnnxError
from toolchain.ranges import ActivationRange, Ranges

RANGES = Ranges({"b": ActivationRange(0.0, 0.1, 0.1), "a": ActivationRange(-1.5, 2.25, 2.0)}, {"w": [0.3, 1e-9]}, "max")


def test_what_was_saved_is_what_is_loaded_to_the_last_bit(tmp_path):
    RANGES.save(tmp_path / "ranges.json")
    assert Ranges.load(tmp_path / "ranges.json") == RANGES
    assert [p.name for p in tmp_path.iterdir()] == ["ranges.json"]


def test_equal_ranges_give_equal_bytes_whatever_their_order(tmp_path):
    RANGES.save(tmp_path / "a.json")
    Ranges(dict(reversed(RANGES.activations.items())), RANGES.weights, "max").save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_only_a_range_that_clips_is_marked_in_the_file(tmp_path):
    trained = Ranges({"a": ActivationRange(0.0, 3.0, 2.0, clips=True), "b": ActivationRange(0.0, 3.0, 2.0)})
    trained.save(tmp_path / "ranges.json")
    assert Ranges.load(tmp_path / "ranges.json") == trained
    stored = json.loads((tmp_path / "ranges.json").read_text())["activations"]
    assert stored == {"a": {"min": 0, "max": 3, "amax": 2, "clips": True}, "b": {"min": 0, "max": 3, "amax": 2}}


@pytest.mark.parametrize(("content", "message"), [
    (None, "no such file; calibrate first"), ("", "not a ranges file"), ("[]", "not a ranges file"),
    ('{"format": "other/1"}', "format is 'other/1'"),
    ('{"format": "toolchain.ranges/1", "method": "", "weights": {}, "activations": {"a": {"min": 1, "max": 0, "amax": 1}}}',
     "a: min 1.0, max 0.0"),
    ('{"format": "toolchain.ranges/1", "method": "", "weights": {}, "activations": {"a": {"min": 0, "max": 1, "amax": NaN}}}',
     "amax nan"),
    ('{"format": "toolchain.ranges/1", "method": "", "weights": {}, "activations": {"a": {"min": 0, "max": 1, "amax": 1, "clips": 1}}}',
     "a: clips 1, expected true or nothing"),
])
def test_a_file_that_is_not_ours_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "ranges.json").write_text(content)
    with pytest.raises(OnnxError, match=message):
        Ranges.load(tmp_path / "ranges.json")
