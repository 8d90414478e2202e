"""Bad input gets one clear message and an exit code: no traceback, nothing lost."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusal import refused

ROOT = Path(__file__).parents[2]


def save_network(path: Path, ops: str = "conv", classes: int = 10, size: int = 32) -> Path:
    """A small ONNX file: conv, global pool, linear; or one with an operator no runtime has."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = [("w", rng.normal(size=(8, 3, 3, 3))), ("v", rng.normal(size=(classes, 8))), ("b", np.zeros(classes))]
    nodes = [helper.make_node("Frobnicate" if ops == "frobnicate" else "Conv", ["images", "w"], ["c"], name="first"),
             helper.make_node("HardSwish" if ops == "hard_swish" else "Relu", ["c"], ["r"]), helper.make_node("GlobalAveragePool", ["r"], ["p"]),
             helper.make_node("Flatten", ["p"], ["f"]), helper.make_node("Gemm", ["f", "v", "b"], ["logits"], transB=1)]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def own(tmp_path: Path, onnx_path: Path) -> Path:
    recipe = tmp_path / "own.yaml"
    recipe.write_text(f"name: own\ndata: {{source: digits}}\nmodel: {{onnx: {onnx_path}}}\n"
                      "quantize: {method: ptq, calibrator: max, calibration: {images: 16}}\n"
                      "measure: {warmup: 2, rounds: 2, runs_per_round: 3, throughput_batches: [1]}\n"
                      "engines: [{runtime: onnxruntime, precision: fp32}, {runtime: onnxruntime, precision: int8}]\n")
    return recipe


def test_a_users_own_onnx_goes_through_ptq_and_is_not_touched(toolchain: Any, tmp_path: Path) -> None:
    network = save_network(tmp_path / "net.onnx")
    before = network.read_bytes()
    done = toolchain("build", own(tmp_path, network), "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert network.read_bytes() == before


@pytest.mark.parametrize(("damage", "code", "word"), [
    ("missing", 2, "exists neither in"), ("empty", 5, "net.onnx"), ("truncated", 5, "net.onnx"), ("text", 5, "net.onnx"),
    ("operator", 5, "Frobnicate"), ("classes", 5, "7 outputs, but the dataset has 10 classes"),
    ("size", 5, "set data.image_size: 64"),
])
def test_a_damaged_or_unfit_onnx_file_is_named(toolchain: Any, tmp_path: Path, damage: str, code: int, word: str) -> None:
    network = save_network(tmp_path / "net.onnx", "frobnicate" if damage == "operator" else "conv",
                           7 if damage == "classes" else 10, 64 if damage == "size" else 32)
    content = network.read_bytes()
    if damage == "missing":
        network.unlink()
    elif damage in ("empty", "truncated", "text"):
        network.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "text": b"hello"}[damage])
    refused(toolchain("build", own(tmp_path, network), "--out", tmp_path / "out"), code, word)


def test_an_engine_that_cannot_be_built_stands_in_the_report_beside_the_others(toolchain: Any, tmp_path: Path) -> None:
    """TensorRT for RTX has no BF16 HardSwish."""
    pytest.importorskip("tensorrt_rtx")
    recipe, out, rtx = own(tmp_path, save_network(tmp_path / "net.onnx", "hard_swish")), tmp_path / "out", "bf16.tensorrt_rtx.sm86"
    asked = "engines=[{runtime: tensorrt_rtx, precision: bf16, target: sm86}, {runtime: onnxruntime, precision: fp32}]"
    refused(toolchain("build", recipe, "--out", out, "--set", asked), 6, rtx, "HardSwish", "the others are kept")
    report = json.loads((out / "report.json").read_text())
    failed, fp32 = sorted(report["engines"], key=lambda engine: engine["built"])
    assert (failed["name"], failed["built"], failed["measured"]) == (rtx, False, False) and "HardSwish" in failed["reason"]
    assert fp32["built"] and fp32["measured"] and (out / fp32["path"]).is_file()
    assert "cannot be built" in (out / "report.md").read_text() and rtx not in os.listdir(out / "engines")


def test_a_build_none_of_whose_engines_can_be_built_fails_with_the_reason(toolchain: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    recipe = own(tmp_path, save_network(tmp_path / "net.onnx", "hard_swish"))
    asked = "engines=[{runtime: tensorrt_rtx, precision: bf16, target: sm86}]"
    refused(toolchain("build", recipe, "--out", tmp_path / "out", "--set", asked), 6, "HardSwish")
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.parametrize(("overrides", "code", "words"), [
    (["train.epoch=3"], 2, ("--set train.epoch=3: train.epoch: unknown key", "did you mean 'epochs'?")),
    (["train.epochs=soon"], 2, ("train.epochs: found 'soon'",)),
    (["quantize.calibration.images=100000"], 3, ("100000",)),
    (["data={source: cifar10}"], 3, ("cifar10",)),
    (["data={source: parquet, train: none.parquet}"], 3, ("none.parquet",)),
    (["data={source: folder, train: nowhere}"], 3, ("nowhere",)),
    (["train.optimizer.lr=1e30", "train.clip_norm=null"], 4, ("epoch", "learning rate")),
    (["engines=[{runtime: tensorrt_rtx, precision: fp32, target: sm75}]"], 6, ("sm75", "fp32")),
    (["engines=[{runtime: tensorrt_rtx, precision: int4, target: sm75}]"], 6, ("sm75", "int4")),
    (["engines=[{runtime: tensorrt, precision: fp32}]"], 7, ("pip install", "[tensorrt]")),
    (["engines=[]"], 2, ("engines: the list is empty",)),
    (["engines=[{runtime: onnxruntime, precision: fp32},{runtime: onnxruntime, precision: fp32}]"], 2, ("twice",)),
    (["model.weights=none.safetensors"], 2, ("model.weights: 'none.safetensors' exists neither in",)),
])
def test_what_cannot_be_built_is_refused_by_name(
        toolchain: Any, tiny_recipe: Path, tmp_path: Path, overrides: list[str], code: int, words: tuple[str, ...]) -> None:
    sets = [word for override in overrides for word in ("--set", override)]
    refused(toolchain("build", tiny_recipe, "--out", tmp_path / "out", *sets, TOOLCHAIN_DATA=str(tmp_path)), code, *words)


def test_a_corrupt_parquet_row_is_named(toolchain: Any, tiny_recipe: Path, tmp_path: Path) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    rows = []
    for index in range(40):
        buffer = io.BytesIO()
        Image.fromarray(np.full((32, 32, 3), index, np.uint8)).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue() if index != 23 else b"not an image", "path": f"{index}.png"})
    pq.write_table(pa.table({"image": rows, "label": [i % 2 for i in range(40)]}), tmp_path / "a.parquet")
    done = toolchain("build", tiny_recipe, "--out", tmp_path / "out", "--set",
                     f"data={{source: parquet, train: {tmp_path}/a.parquet}}")
    refused(done, 3, "a.parquet", "23")


def test_an_unwritable_output_folder_is_named(toolchain: Any, tiny_recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(toolchain("build", tiny_recipe, "--out", tmp_path / "file" / "out"), 9, "cannot be written")


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small file system needs root on Linux")
def test_a_full_disk_loses_nothing_and_the_same_command_goes_on(
        toolchain: Any, tiny_recipe: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("this system does not let tests mount a tmpfs")
    try:
        done = toolchain("build", tiny_recipe, "--out", small / "out")
        refused(done, 9, "No space left on device", "run the same command to go on")
        subprocess.run(["mount", "-o", "remount,size=200m", str(small)], check=True)
        assert toolchain("build", tiny_recipe, "--out", small / "out").returncode == 0
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)


def test_an_imported_network_is_built_and_a_wrong_import_is_named(
        toolchain: Any, tiny_recipe: Path, tmp_path: Path) -> None:
    nets = tmp_path / "my_nets.py"
    nets.write_text("""
from torch import nn

def my_net(num_classes, form, width):
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))

MODELS = {"my_net": my_net}
""")
    words = ("build", tiny_recipe, "--set", "model={arch: my_net}", "--set", "train.epochs=1", "--out", tmp_path / "out")
    assert toolchain(*words, "--import", nets).returncode == 0
    refused(toolchain(*words), 2, "found 'my_net', expected vgg11")
    nets.write_text("raise RuntimeError('broken')")
    refused(toolchain(*words, "--import", nets), 2, "my_nets.py", "broken")
    refused(toolchain(*words, "--import", tmp_path / "none.py"), 2, "none.py")


def test_an_unknown_command_or_option_is_a_usage_error(toolchain: Any) -> None:
    assert toolchain("bild").returncode == 2
    assert toolchain("build").returncode == 2


def test_the_version_is_said_and_completion_knows_the_commands(toolchain: Any) -> None:
    from toolchain import __version__

    assert toolchain("--version").stdout == f"toolchain {__version__}\n"
    done = toolchain(_TOOLCHAIN_COMPLETE="complete_bash", COMP_WORDS="toolchain ro", COMP_CWORD="1")
    assert done.stdout.split() == ["rollback"]
