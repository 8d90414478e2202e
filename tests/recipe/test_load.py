"""What a user reads when a recipe is wrong, and that right ones resolve as written."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from toolchain.errors import RecipeError
from toolchain.recipe.load import load_recipe, locate, resolved_yaml
from toolchain.recipe.schema import ARCHITECTURES, Recipe

SHIPPED = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(path for path in SHIPPED.rglob("*.yaml") if path.parent.name != "studies")


def write(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text)
    return path


def complaint(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder, text), overrides)
    return str(caught.value)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.relative_to(SHIPPED).as_posix())
def test_every_shipped_recipe_is_valid_and_points_editors_to_the_schema(path: Path) -> None:
    below = path.relative_to(SHIPPED).with_suffix("").parts  # distill/digits/dkd.yaml is digits_dkd
    assert load_recipe(path).name == "_".join(below[1:] or below)
    pointer = path.read_text().splitlines()[0]
    assert pointer.startswith("# yaml-language-server: $schema=")
    assert (path.parent / pointer.split("=", 1)[1]).is_file()


def test_the_shipped_json_schema_is_the_one_the_code_makes() -> None:
    import json

    shipped = json.loads((SHIPPED / "schema.json").read_text())
    assert shipped == Recipe.model_json_schema(), "run: toolchain schema > recipes/schema.json"


def test_sections_stand_in_pipeline_order() -> None:
    assert list(Recipe.model_fields) == [
        "name", "seed", "data", "model", "train", "distill", "prune", "quantize", "export", "engines", "measure", "limits"]


def test_defaults_are_written_back_and_the_result_is_the_same_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "name: a\nmodel: {arch: vgg11_bn}\nquantize: ptq\n"))
    text = resolved_yaml(recipe)
    assert yaml.safe_load(text)["train"]["optimizer"] == {
        "method": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 0.0005}
    assert load_recipe(write(tmp_path, text)) == recipe


def test_the_resolved_recipe_of_a_users_own_onnx_loads_again(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "name: a\nmodel: {onnx: a.onnx}\n"))
    assert load_recipe(write(tmp_path, resolved_yaml(recipe))) == recipe


def test_an_unknown_key_is_named_with_line_value_allowed_keys_and_nearest_spelling(tmp_path: Path) -> None:
    text = complaint(tmp_path, "name: a\nmodel: {arch: vgg11}\ntrain:\n  epoch: 3\n")
    assert text.startswith(f"{tmp_path}/r.yaml:4: train.epoch: unknown key (value 3); expected ")
    assert "batch_size" in text and text.endswith("did you mean 'epochs'?")


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    lines = complaint(tmp_path, "name: a\nseed: -1\nmodel: {arch: vgg12}\nquantize: {method: qta}\n").splitlines()
    assert [line.split(": ")[1] for line in lines] == ["seed", "model.arch", "quantize"]
    assert "did you mean 'vgg11'?" in lines[1] or "did you mean 'vgg1" in lines[1]
    assert lines[2].endswith("found 'qta', expected ptq, qat, half_finetune, gpfq, did you mean 'qat'?")


@pytest.mark.parametrize(("text", "expected"), [
    ("name: a\nmodel: {arch: vgg11}\ntrain: {optimizer: {method: adamw, momentum: 0.9}}", "train.optimizer.momentum: unknown"),
    ("name: a\nmodel: {arch: vgg11}\nquantize: {method: ptq, provider: modelopt}", "quantize.provider: unknown key"),
    ("name: a\nmodel: {arch: vgg11}\nquantize: {method: ptq, calibrator: {method: max, percentile: 99}}",
     "quantize.calibrator.percentile: unknown key"),
    ("name: a\nmodel: {onnx: x.onnx}\nquantize: qat", "model.onnx is a finished network: remove quantize: qat"),
    ("name: a\nmodel: {onnx: x.onnx}\nquantize: half_finetune", "model.onnx is a finished network: remove quantize: half_finetune"),
    ("name: a\nmodel: {arch: vgg11}\nquantize: qat\nengines: [{runtime: onnxruntime, precision: fp16}]",
     "qat trains for int8 and int4 engines, but engines asks for fp16 only; add an engine with precision int8 or int4"),
    ("name: a\nmodel: {arch: vgg11}\nquantize: {method: qat, provider: modelopt, learn: lsq}",
     "provider: modelopt does not know learn: lsq; remove provider"),
    ("name: a\nmodel: {onnx: x.onnx}\ntrain: {epochs: 3}", "model.onnx is a finished network: remove train"),
    ("name: a\nmodel: {arch: vgg11}\nengines: [{runtime: tensorrt_rtx, precision: int8, target: sm87}]",
     "engines.0.target: TensorRT-RTX has no sm87; expected sm75"),
    ("name: a\nmodel: {arch: vgg11}\nengines: [{runtime: openvino, precision: int2}]", "found 'int2', expected fp32"),
    ("name: a\nmodel: {arch: vgg11}\ntrain: {epochs: many}", "train.epochs: found 'many': input should be a valid integer"),
    ("name: a\nmodel: {arch: vgg11}\ndata: {source: digits, std: [1, 0, 1]}", "every std must be above 0"),
    ("name: a\nmodel: {arch: vgg11}\ndata: {source: folder, train: x, resize: 16}", "resize (16) must be at least image_size (32)"),
    ("name: a\nmodel: {arch: vgg11}\nmeasure: {threads: 100000}", "measure.threads: found 100000: input should be less"),
    ("name: a\nmodel: {arch: vgg11}\nmeasure: {throughput_batches: [0]}", "measure.throughput_batches.0: found 0"),
    ("name: a\nmodel: {arch: vgg11}\nmeasure: {batch: 128}\nengines: [{runtime: tensorrt_rtx, precision: int8}]",
     "measure.batch is 128, outside the profile of engines.0 (1 to 64)"),
    ("name: a\nmodel: {arch: vgg11}\nengines: []", "r.yaml:3: engines: the list is empty; name at least one engine, or leave it out"),
    ("name: ../a\nmodel: {arch: vgg11}", "name: found '../a'"),
    ("name: a\nname: b\nmodel: {arch: vgg11}", "r.yaml:2: name: the key stands twice (first on line 1)"),
    ("- 1\n", "expected a mapping of sections"),
    ("", "expected a mapping of sections"),
    ("name: [\n", "not valid YAML"),
    ("name: !!python/object/apply:os.system [ls]\nmodel: {arch: vgg11}", "not valid YAML"),
])
def test_an_impossible_recipe_is_refused_in_one_sentence(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in complaint(tmp_path, text)


def test_an_override_reaches_a_field_of_a_section_left_at_its_default(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nmodel: {arch: vgg11}\nquantize: ptq\n")
    recipe = load_recipe(path, ["train.optimizer.lr=0.1", "quantize.int4.block=64", "data.val_fraction=0.2"])
    assert (recipe.train.optimizer.lr, recipe.quantize.int4.block, recipe.data.val_fraction) == (0.1, 64, 0.2)


def test_a_layers_name_keeps_its_dots_in_an_override(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nmodel: {arch: vgg11}\nengines: [{runtime: onnxruntime, precision: mixed}]\n")
    cfg = load_recipe(path, ["quantize.mixed=simple", "quantize.mixed.layers.features.0=fp16", "quantize.mixed.layers.head=int4",
                             "quantize.int8.keep_float=[features.0, classifier.6]"]).quantize
    assert cfg.mixed and cfg.mixed.layers == {"features.0": "fp16", "head": "int4"}
    assert cfg.int8.keep_float == ("features.0", "classifier.6")


@pytest.mark.parametrize("override", ["quantize.int8.keep_float=features.0", "quantize.int8.keep_float.0=features.0"])
def test_a_name_where_a_list_belongs_is_refused_with_the_way_to_write_it(tmp_path: Path, override: str) -> None:
    assert complaint(tmp_path, "name: a\nmodel: {arch: vgg11}\n", override).endswith("expected a list, such as [features.0]")


def test_an_empty_section_is_the_default_one(tmp_path: Path) -> None:
    full = load_recipe(write(tmp_path, "name: a\nmodel: {arch: vgg11}\n"))
    assert load_recipe(write(tmp_path, "name: a\nmodel: {arch: vgg11}\ntrain:\ndata:\ndistill:\n")) == full


def test_a_wrong_override_is_named_as_typed(tmp_path: Path) -> None:
    text = complaint(tmp_path, "name: a\nmodel: {arch: vgg11}\n", "train.epochs=x")
    assert text.startswith("--set train.epochs=x: train.epochs: found 'x'")
    assert "expected FIELD=VALUE" in complaint(tmp_path, "name: a\nmodel: {arch: vgg11}\n", "train.epochs")
    assert "the recipe has no engines.4" in complaint(tmp_path, "name: a\nmodel: {arch: vgg11}\nengines: []\n", "engines.4.x=1")


def test_an_imported_architecture_is_allowed_only_when_imported(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nmodel: {arch: my_net}\n")
    assert load_recipe(path, architectures=["my_net"]).model.arch == "my_net"
    with pytest.raises(RecipeError, match="my_net"):
        load_recipe(path)


def test_a_missing_recipe_and_a_missing_file_name_the_places(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such recipe"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="model.onnx: 'a.onnx' exists neither in"):
        locate("a.onnx", tmp_path, "model.onnx")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from([*Recipe.model_fields, "method", "source", "arch", "onnx", "teacher"]), inner)))
def test_no_yaml_content_makes_anything_but_a_recipe_error(tmp_path_factory: pytest.TempPathFactory, content: object) -> None:
    path = write(tmp_path_factory.mktemp("fuzz"), yaml.safe_dump(content))
    try:
        load_recipe(path)
    except RecipeError:
        pass


def test_the_architectures_a_recipe_allows_are_the_models_we_have() -> None:
    pytest.importorskip("torch")
    from toolchain.models import MODELS

    assert set(MODELS) == set(ARCHITECTURES)


def test_a_list_that_is_too_short_says_how_long_it_is(tmp_path: Path) -> None:
    told = complaint(tmp_path, "name: a\nmodel: {arch: vgg11_bn}\ndistill: {method: attention_transfer, layers: [], "
                               "teacher: {checkpoint: t.safetensors}}\n")
    assert "distill.layers: the list has 0 entries, expected at least 1" in told and "tuple" not in told
