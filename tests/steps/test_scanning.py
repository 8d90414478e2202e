"""`toolchain sensitivity` on digits: a network in PyTorch in this process, an ONNX file in one that has no torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from toolchain.commands import run_sensitivity
from toolchain.errors import RecipeError, TrainError

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "prune" / "digits" / "unpruned.yaml"
SMALL = ["train.epochs=1", "model.arch=studentnet", "model.width=0.25", "quantize.calibration.images=8"]


def own_onnx(path: Path) -> None:
    """Conv 3 -> 4, ReLU, mean over the image, Gemm to ten classes."""
    rng = np.random.default_rng(0)
    weights = {"conv.weight": (4, 3, 3, 3), "head.weight": (10, 4), "head.bias": (10,)}
    nodes = [helper.make_node("Conv", ["images", "conv.weight"], ["c"]), helper.make_node("Relu", ["c"], ["r"]),
             helper.make_node("GlobalAveragePool", ["r"], ["p"]), helper.make_node("Flatten", ["p"], ["f"]),
             helper.make_node("Gemm", ["f", "head.weight", "head.bias"], ["logits"], transB=1)]
    graph = helper.make_graph(
        nodes, "own", [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name) for name, shape in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished scan of every kind."""
    folder = tmp_path_factory.mktemp("scan")
    assert run_sensitivity(RECIPE, ratios="0.5", images=24, jobs=1, overrides=SMALL, out=folder) == 0
    return folder


def test_every_kind_is_scanned_and_the_build_finds_its_student(out: Path) -> None:
    layers = {}
    for kind in ("weights", "channels", "quantize"):
        content = json.loads((out / "sensitivity" / f"sensitivity_{kind}.json").read_text())
        assert (content["kind"], content["images"]) == (kind, 24)
        assert ("removable" in content) == (kind == "channels")
        layers[kind] = [layer["name"] for layer in content["layers"]]
        assert all(0 <= point["top1_percent"] <= 100 and point["drop"] == content["baseline"]["top1_percent"] - point["top1_percent"]
                   for layer in content["layers"] for point in layer["points"])
    assert layers["weights"] == layers["quantize"] and set(layers["channels"]) < set(layers["weights"])
    assert {path.name for path in (out / "sensitivity").iterdir()} >= {"sensitivity.html", "sensitivity.md"}
    stages = [path.name for path in (out / "stages").iterdir()]
    assert sum(name.startswith("train-") for name in stages) == 1 and not [name for name in stages if name.endswith(".partial")]
    left = {path.name for path in (out / "stages").glob("sensitivity_weights-*/*")}
    assert left == {"sensitivity.json", "stage.json"}  # images and points are cleared away


def test_a_finished_scan_is_given_to_a_prune_section_and_one_of_another_kind_is_refused(out: Path, tmp_path: Path) -> None:
    from toolchain.build import build
    from toolchain.recipe.load import load_recipe
    from toolchain.workdir import WorkDir

    def stages(file: str, *prune: str) -> list[str]:
        recipe = load_recipe(RECIPE, [*SMALL, "prune={method: greedy}", f"prune.scan.file={file}", *prune])
        work = WorkDir(tmp_path, out / "stages", dry=True)
        build(recipe, work, RECIPE.parent, [tmp_path])
        return [stage.name for stage in work.stages if stage.cached]

    assert "train" in stages(str(out / "sensitivity" / "sensitivity_channels.json"))
    with pytest.raises(RecipeError, match="prune.scan.file: 'nowhere.json' exists neither in"):
        stages("nowhere.json")


def test_a_scan_file_is_checked_on_an_untrained_network(out: Path, tmp_path: Path) -> None:
    from types import SimpleNamespace

    from toolchain.models import create_model
    from toolchain.recipe.load import load_recipe
    from toolchain.recipe.prune import Scan
    from toolchain.steps.scanning import check_scan_file

    def check(file: str | None, kind: str, width: str = "0.25") -> None:
        recipe = load_recipe(RECIPE, [*SMALL, f"model.width={width}"])
        check_scan_file(SimpleNamespace(recipe=recipe, base=tmp_path), Scan(file=file), kind, create_model(recipe.model, 10))

    check(None, "weights")
    for kind in ("weights", "channels"):
        file = str(out / "sensitivity" / f"sensitivity_{kind}.json")
        check(file, kind)
        with pytest.raises(RecipeError, match=rf"sensitivity_{kind}.json: \w+ \S+: parameters: found [\d,]+, but this network has"):
            check(file, kind, width="0.5")
    with pytest.raises(RecipeError, match="kind: found a scan of channels, expected one of weights"):
        check(file, "weights")
    with pytest.raises(RecipeError, match="prune.scan.file: 'nowhere.json' exists neither in"):
        check("nowhere.json", "weights")
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(RecipeError, match="damaged.json: cannot be read as a sensitivity scan"):
        check("damaged.json", "weights")


def test_an_onnx_file_is_quantized_layer_by_layer_without_torch(tmp_path: Path) -> None:
    own_onnx(tmp_path / "own.onnx")
    (tmp_path / "own.yaml").write_text("name: own\ndata: {source: digits}\nmodel: {onnx: own.onnx}\nquantize: {method: ptq, calibration: {images: 8}}\n")
    code = ("import sys; from pathlib import Path; from toolchain.commands import run_sensitivity;"
            "run_sensitivity(Path('own.yaml'), images=16, out=Path('out')); assert 'torch' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "out/sensitivity/sensitivity_quantize.json").read_text())
    assert [(layer["name"], layer["parameters"], layer["macs"]) for layer in content["layers"]] == [
        ("conv", 108, 108 * 900), ("head", 40, 40)]
    assert all([point["precision"] for point in layer["points"]] == ["int8", "int4"] for layer in content["layers"])
    assert all(point["kl_nats"] > 0 for layer in content["layers"] for point in layer["points"])
    with pytest.raises(RecipeError, match="--of weights,channels: model.onnx is an ONNX file, .* use --of quantize"):
        run_sensitivity(tmp_path / "own.yaml", of="weights,channels,quantize", out=tmp_path / "other")


def test_a_damaged_student_is_named(out: Path, tmp_path: Path) -> None:
    from toolchain.sensitivity.networks import open_weights

    with pytest.raises(TrainError, match="architecture.json: cannot be read"):
        open_weights(tmp_path, tmp_path)
