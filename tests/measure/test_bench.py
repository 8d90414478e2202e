"""`toolchain bench`: what it takes, what it says of it, and that it leaves the user's files alone."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from toolchain.cli import main
from toolchain.commands_bench import run_bench
from toolchain.engines import BACKENDS, ort
from toolchain.errors import DigestMismatch, EngineError, RecipeError
from toolchain.measure.bench import Method, bench, refused_batch
from toolchain.recipe.schema import OrtEngine
from toolchain.runner.energy import Counter
from toolchain.runner.probe import RUNTIMES
from toolchain.steps.benching import find_entries, opened

QUICK = ["--rounds", "2", "--runs", "2", "--warmup", "1", "--attempts", "1", "--threads", "1", "--image-size", "16"]


@pytest.fixture
def build(tmp_path, make_onnx):
    """What is left of a build: two engines that run here, and one for a GPU that is not here."""
    for precision, form in (("int8", "int8_u8"), ("fp32", "fp32")):
        folder = tmp_path / f"build/engines/{precision}.onnxruntime.cpu_x86"
        folder.mkdir(parents=True)
        ort.build(make_onnx(form), OrtEngine(runtime="onnxruntime", precision=precision, target="cpu_x86"), folder, {})
    other = tmp_path / "build/engines/fp32.onnxruntime.cpu_arm"
    shutil.copytree(folder, other)
    record = json.loads((other / "engine.json").read_text())
    (other / "engine.json").write_text(json.dumps(record | {"name": other.name, "target": "cpu_arm"}))
    return tmp_path / "build"


def run(*words):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", *map(str, words), *QUICK])
    return stopped.value.code


def test_engines_of_a_build_and_an_onnx_file_stand_side_by_side_in_the_table_and_in_json(build, make_onnx, tmp_path, capsys):
    network = make_onnx("fp32")
    before = network.read_bytes()
    (tmp_path / "bench.json").write_text('{"schema_version": 1, "devices": [], "recipe": {}}')
    assert run(build, network, "--json", tmp_path / "bench.json") == 2
    assert "bench.json: exists and is not figures of `bench`" in capsys.readouterr().err
    (tmp_path / "bench.json").write_text('{"schema_version": 1, "devices": []}')  # its own, of several devices
    assert run(build, network, "--json", tmp_path / "bench.json") == 0
    told = capsys.readouterr()
    names = [f"{build}:fp32.onnxruntime.cpu_x86", f"{build}:int8.onnxruntime.cpu_x86", str(network)]
    facts = json.loads((tmp_path / "bench.json").read_text())
    assert [row["name"] for row in facts["rows"]] == names and (facts["batch"], facts["rounds"]) == (1, 2)
    assert "left out" in told.err and "cpu_arm" in told.err
    assert all(row["latency_ms"]["n"] == 4 and row["input"] == [1, 3, 16, 16] for row in facts["rows"])
    assert [row["ratio"] is None for row in facts["rows"]] == [True, False, False]
    assert all(row["validity"]["verdict"] in ("valid", "inconclusive") for row in facts["rows"])
    assert "speed (95 %)" in told.out and network.read_bytes() == before


def test_an_engine_is_named_in_three_ways(build):
    folder = build / "engines/int8.onnxruntime.cpu_x86"
    for word in (f"{build}:int8.onnxruntime.cpu_x86", str(folder), str(folder / "engine.onnx")):
        (entry,) = find_entries([word])
        assert (entry.path, entry.name, entry.runtime) == (folder, word, "onnxruntime")


def test_an_onnx_file_runs_on_each_runtime_that_is_asked_for(make_onnx):
    pytest.importorskip("openvino")
    entries = find_entries([str(make_onnx("fp32"))], ["onnxruntime", "openvino"])
    with opened(entries, 1) as engines:
        answers = [engine.infer(np.ones((1, 3, 16, 16), np.float32)) for engine in engines.values()]
    assert len(engines) == 2 and answers[0] == pytest.approx(answers[1], abs=1e-4)


@pytest.mark.parametrize(("word", "error", "told"), [
    ("nosuch.onnx", RecipeError, "does not exist"), ("build:int8.onnxruntime.cpu_x68", RecipeError, "did you mean"),
    ("build:fp32.onnxruntime.cpu_arm", EngineError, "cannot run here"), ("notes.txt", RecipeError, "neither an engine"),
    ("empty", RecipeError, "neither an engine"),
])
def test_what_cannot_be_timed_is_named(build, monkeypatch, word, error, told):
    monkeypatch.chdir(build.parent)
    (build.parent / "notes.txt").write_text("hello")
    (build.parent / "empty").mkdir()
    with pytest.raises(error, match=told):
        find_entries([word])


def test_one_file_named_twice_is_refused(make_onnx):
    with pytest.raises(RecipeError, match="named twice"):
        find_entries([str(make_onnx("fp32"))] * 2)


def test_an_altered_engine_is_not_opened(build):
    folder = build / "engines/int8.onnxruntime.cpu_x86"
    (folder / "engine.onnx").write_bytes((folder / "engine.onnx").read_bytes() + b"\0")
    with pytest.raises(DigestMismatch), opened(find_entries([str(folder)]), 1):
        pass


def test_a_damaged_onnx_file_is_named_as_the_user_knows_it(tmp_path, capsys):
    (tmp_path / "net.onnx").write_text("hello")
    assert run(tmp_path / "net.onnx") == 6
    told = capsys.readouterr().err
    assert str(tmp_path / "net.onnx") in told and "toolchain-bench" not in told


@pytest.fixture
def open_net(tmp_path):
    """(n, 3, height, width) -> means of the channels, height and width open, its weights in a file beside it."""
    nodes = [helper.make_node("GlobalAveragePool", ["images"], ["means"]), helper.make_node("Flatten", ["means"], ["flat"]),
             helper.make_node("MatMul", ["flat", "gain"], ["logits"])]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, "height", "width"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])
    gain = numpy_helper.from_array(np.eye(3, dtype=np.float32), "gain")
    model = helper.make_model(helper.make_graph(nodes, "open", [given], [logits], [gain]), ir_version=10,
                              opset_imports=[helper.make_opsetid("", 21)])
    onnx.save(model, tmp_path / "open.onnx", save_as_external_data=True, location="open.weights", size_threshold=0)
    return tmp_path / "open.onnx"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_file_of_open_size_with_its_weights_beside_it_is_timed_at_the_size_that_is_given(open_net, tmp_path, capsys, runtime):
    pytest.importorskip(runtime)
    assert run(open_net, "--runtime", runtime, "--json", tmp_path / "bench.json") == 0
    (row,) = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert row["input"] == [1, 3, 16, 16]
    assert f"timed at 16 x 16 pixels, as --image-size says: {open_net}" in capsys.readouterr().out


def test_a_file_of_open_size_is_not_timed_at_a_size_that_nobody_asked_for(open_net):
    with pytest.raises(RecipeError, match="height and width of its images open; .*--image-size PIXELS"):
        run_bench([str(open_net)], rounds=2, runs=1)


def test_a_size_that_no_file_can_be_timed_at_is_refused(build, make_onnx):
    for word in (make_onnx("fp32"), f"{build}:int8.onnxruntime.cpu_x86"):
        with pytest.raises(RecipeError, match=r"--image-size: found 99, but .* takes 16 x 16 pixels and no other size; leave it out"):
            run_bench([str(word)], rounds=2, runs=1, size=99)


@pytest.mark.parametrize("expected", [BACKENDS, RUNTIMES])
def test_the_help_names_the_runtimes_that_an_error_expects(expected, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "--runtime" in line and "NAMES" in line]
    here, there = re.findall(r"(?:here|on a device) ([a-z_, ]+?)\s+\[", told)
    assert list(expected) == (here if expected is BACKENDS else there).split(", ")


def test_a_file_whose_weights_lie_beside_it_is_not_sent_to_a_device_and_the_command_told_makes_one_file(open_net, tmp_path):
    (tmp_path / "devices.yaml").write_text("orin: {host: 192.0.2.1}\n")
    with pytest.raises(RecipeError, match="keeps weights in open.weights, .*make one of it: ") as told:
        run_bench([str(open_net)], size=16, on=["orin"], devices=tmp_path / "devices.yaml")
    command = shlex.split(str(told.value).partition("make one of it: ")[2])
    subprocess.run([sys.executable, *command[1:]], check=True)
    (tmp_path / "open.weights").unlink()
    assert run(tmp_path / "open_whole.onnx") == 0


def test_a_missing_file_of_weights_is_named(open_net, tmp_path, capsys):
    (tmp_path / "open.weights").unlink()
    assert run(open_net) == 6
    assert "its weights lie in open.weights, which is not in its folder" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "told"), [
    (["--runtime", "onnxruntim"], "--runtime: found 'onnxruntim', expected onnxruntime, .*did you mean 'onnxruntime'"),
    (["--runtime", ""], "--runtime: found ''"), (["--threads", "99999"], "--threads: found 99999, but this process has"),
])
def test_a_bad_option_is_called_by_its_own_name(make_onnx, capsys, words, told):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", str(make_onnx("fp32")), *words])
    assert stopped.value.code == 2 and re.search(told, capsys.readouterr().err)


def test_a_runtime_that_is_not_installed_has_its_own_exit_code(build, make_onnx, monkeypatch, capsys):
    monkeypatch.setattr(ort, "missing", lambda: "pip install it")
    for word in (make_onnx("fp32"), build, f"{build}:int8"):
        assert run(word) == 7
        assert "pip install it" in capsys.readouterr().err


def test_the_beginning_of_a_name_means_the_one_engine_that_runs_here(build):
    (entry,) = find_entries([f"{build}:int8"])
    assert entry.name == f"{build}:int8.onnxruntime.cpu_x86"
    (entry,) = find_entries([f"{build}:fp32"])  # the other one is for another CPU
    assert entry.name == f"{build}:fp32.onnxruntime.cpu_x86"
    shutil.copytree(entry.path, build / "engines/fp32.onnxruntime.cpu_x86_too")
    with pytest.raises(RecipeError, match="means 2 engines; name one: fp32.onnxruntime.cpu_x86 or fp32.onnxruntime.cpu_x86_too"):
        find_entries([f"{build}:fp32"])
    with pytest.raises(RecipeError, match="no such engine, did you mean 'int8'.*expected fp32.onnxruntime.cpu_arm, fp32"):
        find_entries([f"{build}:in8"])
    with pytest.raises(RecipeError, match="holds no engines/, so it is no finished build"):
        find_entries([f"{build.parent}:int8"])


class Engine:
    """Takes 2 ms a run, or what it is told. batches: (4, 4)."""

    def __init__(self, ms=2.0, shape=(-1, 3, -1, -1)):
        self.ms, self.input_shape, self.batches = ms, shape, (4, 4)

    def device_bytes(self):
        return None

    def infer(self, images):
        return images

    def time_ms(self, images, runs):
        assert images.shape[1:] == tuple(16 if length < 0 else length for length in self.input_shape[1:])
        return np.full(runs, self.ms)


def test_ratios_are_of_the_first_files_time_over_the_others():
    rows = bench({"slow": Engine(4.0), "fast": Engine(2.0, (4, 1, 8, 8))}, Method(threads=1, batch=4, size=16))
    assert rows[1]["ratio"] == {"value": 2.0, "low": 2.0, "high": 2.0} and rows[1]["input"] == [4, 1, 8, 8]
    assert rows[0]["images_per_s"] == pytest.approx(1000) and rows[0]["latency_ms"]["p50"] == 4.0


def test_a_batch_that_an_engine_does_not_take_is_told_before_anything_is_timed():
    assert refused_batch({"e": Engine()}, 4) is None
    assert "e: takes batches of 4 to 4, found --batch 1" in refused_batch({"e": Engine()}, 1)


def test_what_an_image_costs_stands_beside_its_latency_where_it_is_counted(build, monkeypatch, capsys, tmp_path):
    told = iter(range(1000))
    monkeypatch.setattr("toolchain.measure.bench.counter", lambda on_gpu: Counter("played", lambda: next(told)))
    assert run(build, "--json", tmp_path / "bench.json") == 0
    out = capsys.readouterr().out
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert all(row["energy"]["millijoules"] == pytest.approx(1000 / row["energy"]["runs"]) for row in rows)  # 1 J each
    assert all(row["with_transfers_ms"]["p50"] > 0 for row in rows)
    assert "mJ: of one image, idle power included, by played" in out and f"{rows[0]['energy']['millijoules']:.3g}" in out
