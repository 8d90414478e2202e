import json
import zlib

import numpy as np
import pytest

from toolchain.engines import ort, rtx
from toolchain.engines.record import read_record
from toolchain.errors import DigestMismatch, EngineError
from toolchain.measure import measure_engines
from toolchain.measure.accuracy import image_keys
from toolchain.recipe.schema import Measure, OrtEngine, RtxEngine
from toolchain.report.schema import EngineResult

CFG = Measure(threads=1, warmup=1, rounds=3, runs_per_round=4, throughput_batches=(1, 4))


@pytest.fixture
def folders(tmp_path, make_onnx):
    """fp32 and int8 engines of ONNX Runtime, by name."""
    made = {}
    for precision, form in (("fp32", "fp32"), ("int8", "int8_u8")):
        cfg = OrtEngine(runtime="onnxruntime", precision=precision)
        folder = tmp_path / f"{precision}.onnxruntime.cpu_x86"
        folder.mkdir()
        ort.build(make_onnx(form), cfg, folder, {"weight_bytes": 1})
        made[folder.name] = folder
    return made


@pytest.fixture
def test_set():
    """(images (40, 3, 16, 16), labels (40,))."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((40, 3, 16, 16)).astype(np.float32), rng.integers(0, 10, 40)


def batches_of(test_set, size=16):
    images, labels = test_set
    return lambda: ((images[i : i + size], labels[i : i + size]) for i in range(0, len(labels), size))


def run(folders, test_set, out, reasons=None, cfg=CFG, classes=10):
    out.mkdir(exist_ok=True)
    reasons = reasons or dict.fromkeys(folders)
    return measure_engines(folders, reasons, batches_of(test_set), test_set[1], cfg, out, seed=0, classes=classes)


def test_every_sample_and_every_answer_is_kept(folders, test_set, tmp_path):
    measured = run(folders, test_set, tmp_path / "out")
    latency = np.load(tmp_path / "out" / "latency.npz", allow_pickle=False)
    answers = np.load(tmp_path / "out" / "predictions.npz", allow_pickle=False)
    assert {name: latency[name].shape for name in latency} == dict.fromkeys(folders, (3, 4))
    assert answers["labels"].tolist() == test_set[1].tolist()
    assert answers["keys"].tolist() == image_keys(test_set[0]).tolist()
    for record in measured:
        samples, top = latency[record["name"]], answers[record["name"]]
        assert record["latency_ms"]["p50"] == pytest.approx(np.median(samples))
        assert record["latency_ms"]["n"] == 12
        assert record["top1_percent"] == pytest.approx(100 * np.mean(top[:, 0] == test_set[1]))
    assert json.loads((tmp_path / "out" / "measured.json").read_text()) == measured


def test_records_fit_the_reports_contract(folders, test_set, tmp_path):
    measured = run(folders, test_set, tmp_path / "out")
    fp32, int8 = (EngineResult.model_validate(record) for record in measured)
    assert fp32.agreement_percent == 100.0 and fp32.speedup_vs_fp32.value == 1.0
    assert int8.speedup_vs_fp32.low <= int8.speedup_vs_fp32.value <= int8.speedup_vs_fp32.high
    assert int8.top1_interval[0] <= int8.top1_percent <= int8.top1_interval[1]
    assert [entry.batch for entry in int8.throughput] == [1, 4]
    assert int8.peak_memory_bytes > 0 and int8.compute == "int8"


def test_an_engine_that_cannot_run_here_is_reported_with_its_reason(folders, test_set, tmp_path, make_onnx):
    pytest.importorskip("tensorrt_rtx")
    folder = tmp_path / "fp16.tensorrt_rtx.sm86"
    folder.mkdir()
    cfg = RtxEngine(runtime="tensorrt_rtx", precision="fp16", target="sm86")
    rtx.build(make_onnx("fp16"), cfg, folder, {"weight_bytes": 1})
    reasons = {**dict.fromkeys(folders), folder.name: "no GPU"}
    *_, record = run({**folders, folder.name: folder}, test_set, tmp_path / "out", reasons)
    result = EngineResult.model_validate(record)
    assert not result.measured and result.reason == "no GPU"
    assert result.engine_bytes == (folder / "engine.trt").stat().st_size


def test_nothing_that_can_run_still_gives_a_record_of_each(folders, test_set, tmp_path):
    measured = run(folders, test_set, tmp_path / "out", dict.fromkeys(folders, "no GPU"))
    assert [record["measured"] for record in measured] == [False, False]
    assert list(np.load(tmp_path / "out" / "latency.npz")) == []


def test_measuring_again_gives_the_same_answers(folders, test_set, tmp_path):
    first, second = (run(folders, test_set, tmp_path / name) for name in ("a", "b"))
    still = ("name", "top1_percent", "top1_interval", "top5_percent", "agreement_percent", "top1_change_vs_fp32")
    assert [[r[k] for k in still] for r in first] == [[r[k] for k in still] for r in second]
    files = [np.load(tmp_path / name / "predictions.npz") for name in ("a", "b")]
    assert all((files[0][name] == files[1][name]).all() for name in files[0])


def test_a_tampered_engine_stops_the_measurement(folders, test_set, tmp_path):
    path = folders["int8.onnxruntime.cpu_x86"] / "engine.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DigestMismatch, match="engine.onnx"):
        run(folders, test_set, tmp_path / "out")


def test_a_dataset_with_other_classes_is_refused(folders, test_set, tmp_path):
    with pytest.raises(EngineError, match="found 10 outputs, expected 100"):
        run(folders, test_set, tmp_path / "out", classes=100)


def test_the_record_of_a_folder_is_what_measure_reports(folders, test_set, tmp_path):
    for record in run(folders, test_set, tmp_path / "out"):
        known = read_record(folders[record["name"]])
        assert (record["sha256"], record["engine_bytes"], record["weight_bytes"]) == (
            known.sha256, known.engine_bytes, known.weight_bytes)


def test_unpruned_engines_are_what_the_others_are_compared_with_and_no_fp32_of_theirs(
    folders, test_set, tmp_path, make_onnx, monkeypatch
):
    monkeypatch.setattr("toolchain.measure.engines.peak_memory_bytes", lambda *_: (1, None))  # a process for each
    before = tmp_path / "before"
    before.mkdir()
    ort.build(make_onnx("fp32"), OrtEngine(runtime="onnxruntime", precision="fp32"), before, {"weight_bytes": 2})
    name = "unpruned.fp32.onnxruntime.cpu_x86"
    out = tmp_path / "out"
    out.mkdir()
    measured = measure_engines({**folders, name: before}, dict.fromkeys(folders), batches_of(test_set), test_set[1], CFG, out,
                               seed=0, classes=10, unpruned={name})
    fp32, int8, old = (EngineResult.model_validate(record) for record in measured)
    times, answers = np.load(out / "latency.npz"), np.load(out / "predictions.npz")
    right = {key: answers[key][:, 0] == test_set[1] for key in answers if key not in ("labels", "keys")}
    for engine in (fp32, int8):
        ratios = np.median(times[name], axis=1) / np.median(times[engine.name], axis=1)
        assert engine.speedup_vs_unpruned.value == pytest.approx(np.median(ratios))
        assert engine.unpruned_reference == name and not engine.unpruned
        assert engine.latency_reference == fp32.name
        change = 100 * (right[engine.name].mean() - right[name].mean())
        assert engine.top1_change_vs_unpruned.value == pytest.approx(change)
    assert old.unpruned and old.name == name and old.speedup_vs_unpruned.value == 1.0
    assert (old.speedup_vs_fp32, old.agreement_percent, old.latency_reference) == (None, None, None)


def test_every_engine_file_is_deflated_even_where_it_cannot_run(folders, test_set, tmp_path):
    for record in run(folders, test_set, tmp_path / "out", dict.fromkeys(folders, "no GPU")):
        content = (folders[record["name"]] / "engine.onnx").read_bytes()
        assert record["deflate_bytes"] == len(zlib.compress(content, 6))
        assert EngineResult.model_validate(record).speedup_vs_unpruned is None
