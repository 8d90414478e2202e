"""The judge of benchmarks/peers on two files made by hand; no peer is installed for it."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"
NET = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[n,3,2,2] images) => (float[n,3] logits) <float sign = {{{sign}}}, int64[2] flat = {{0,-1}}> {{
  s = Mul(images, sign)
  p = GlobalAveragePool(s)
  logits = Reshape(p, flat)
}}
"""
COST = {"seconds": 2.0, "cpu_seconds": 1.5, "peak_rss_bytes": 3e8}


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(PEERS))
    yield
    for name in ("judge", "calib_file"):
        sys.modules.pop(name, None)


def test_the_right_file_wins_and_a_file_that_does_not_load_is_shown(peers, tmp_path):
    from judge import FLOAT, judge, table, verdicts

    files = {FLOAT: tmp_path / "float.onnx", "ours": tmp_path / "ours.onnx", "peer": tmp_path / "peer.onnx",
             "broken": tmp_path / "broken.onnx"}
    for name, sign in ((FLOAT, 1), ("ours", 1), ("peer", -1)):  # the peer's answers are upside down
        onnx.save(onnx.parser.parse_model(NET.format(sign=sign)), files[name])
    files["broken"].write_bytes(b"no onnx")
    labels = np.array([0, 1, 2, 1])
    images = np.repeat(np.eye(3, dtype=np.float32)[labels][:, :, None, None], 2, axis=2).repeat(2, axis=3)
    judged = judge(files, images, labels, [1], rounds=2)
    assert [judged[name]["top1_percent"] for name in (FLOAT, "ours")] == [100.0, 100.0]
    assert judged["peer"]["right"] == [False] * 4
    assert "refuse" in judged["broken"]["refused"]
    costs = {"ours": COST, "peer": {**COST, "seconds": 4.0}}
    rows = table(judged, costs, "ours")
    assert len({row.count("|") for row in rows}) == 1
    assert "| 100.00 | +0.00 (+0.00 to +0.00) |" in rows[2] and "| 0.00 | -100.00 (-100.00 to -100.00) |" in rows[4]
    lines = verdicts(judged, costs, "ours", ["peer", "broken"])
    assert lines[0].startswith("- top-1: 100.00 % against 0.00 % (peer)")
    assert "- wall time: 2.0 s against 4.0 s (peer), 0.50 of it" in lines


def test_calibration_images_are_read_from_the_file_in_order(peers, tmp_path):
    from calib_file import CalibrationFile, Reader

    images = np.arange(5 * 3 * 2 * 2, dtype=np.float32).reshape(5, 3, 2, 2)
    np.save(tmp_path / "calib.npy", images)
    assert [len(batch) for batch in CalibrationFile(tmp_path / "calib.npy").batches(2)] == [2, 2, 1]
    reader = Reader(tmp_path / "calib.npy", "images")
    read = [reader.get_next()["images"] for _ in range(5)]
    assert np.array_equal(np.concatenate(read), images) and reader.get_next() is None
