"""The GPFQ stage of a build: what it leaves, that it is cached, and that every engine's file holds its codes."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from toolchain.graph.convert import convert
from toolchain.quantize.packed import read_packed
from toolchain.ranges import Ranges
from toolchain.recipe.load import RecipeError, load_recipe
from toolchain.recipe.schema import Gpfq, Recipe
from toolchain.steps.gpfq import gpfq_quantized
from toolchain.steps.job import open_job
from toolchain.steps.target import choose_engines
from toolchain.workdir import WorkDir

TEXT = """
net (float[n,3,32,32] images) => (float[n,10] logits) {
  a = Conv <strides = [4,4]> (images, conv)
  r = Relu(a)
  p = GlobalAveragePool(r)
  f = Flatten(p)
  logits = Gemm <transB = 1> (f, head)
}
"""


PIXELS = """
net (float[n,3,32,32] images) => (float[n,10] logits) {
  p = AveragePool <kernel_shape = [8,8], strides = [8,8]> (images)
  f = Flatten(p)
  logits = Gemm <transB = 1> (f, head)
}
"""


def job_of(tmp_path, text=TEXT, shapes=None, **section):
    """A job on digits up to its data, and a stage with an untrained network."""
    recipe = Recipe(name="a", model={"arch": "vgg11"}, quantize={"method": "gpfq", "images": 8, "calibration": {"images": 8}, **section})
    work = WorkDir(tmp_path)
    work.start("")
    job = open_job(recipe, work, tmp_path, [], [])

    def make(folder):
        rng = np.random.default_rng(0)
        model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}')
        for name, shape in (shapes or {"conv": (16, 3, 3, 3), "head": (10, 16)}).items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
        onnx.save(model, folder / "model.onnx")

    return job, work.stage("export", make)


def test_codes_are_packed_published_and_come_out_of_both_integer_files(tmp_path):
    job, onnx_stage = job_of(tmp_path, bits=4, radius="channel")
    found = gpfq_quantized(job, onnx_stage, {"fp32", "int8", "int4"})
    assert set(found) == {"int8", "int4"} and found["int8"][0] == found["int4"][0]
    made = found["int4"][0]
    codes = {name: weight.codes for name, weight in read_packed(tmp_path / "gpfq" / "codes.safetensors").items()}
    report = json.loads((tmp_path / "gpfq" / "gpfq.json").read_text())
    # 432 and 160 codes of 4 bits; 16 and 10 float32 scales
    assert report["packed_bytes"] == 216 + 64 + 80 + 40 and [layer["bits"] for layer in report["layers"]] == [4, 4]
    for precision, (model, ranges) in found.items():
        known = Ranges.load(ranges.folder / "ranges.json")
        assert bool(known.activations) == (precision == "int8")
        convert(model.folder / "model.onnx", tmp_path / "out.onnx", precision, "openvino", known)
        file = {i.name: onnx.numpy_helper.to_array(i).astype(int) for i in onnx.load(tmp_path / "out.onnx").graph.initializer}
        for name, expected in codes.items():
            stored = file[f"{name}_codes"]
            same = stored.T if stored.shape == expected.T.shape else stored.reshape(expected.shape)
            assert (same == expected).all(), (precision, name)
    again = gpfq_quantized(job, onnx_stage, {"int4"})
    assert again["int4"][0].cached and again["int4"][0].key == made.key


def test_top1_on_val_is_told_of_the_float_network_and_of_its_codes(tmp_path):
    job, onnx_stage = job_of(tmp_path, PIXELS, {"head": (10, 48)}, bits=2)
    made = gpfq_quantized(job, onnx_stage, {"int4"})["int4"][0]
    told, val = json.loads((made.folder / "gpfq.json").read_text()), job.dataset().val
    assert told["val_images"] == len(val.labels) == 144
    images = job.dataset().preprocess.normalize(val.images(np.arange(144)))
    found = []
    for file in (onnx_stage, made):
        session = onnxruntime.InferenceSession(file.folder / "model.onnx", providers=["CPUExecutionProvider"])
        found.append(100 * (session.run(None, {"images": images})[0].argmax(axis=1) == val.labels).mean())
    assert [told["float_val_top1_percent"], told["val_top1_percent"]] == pytest.approx(found) and found[0] != found[1]


def test_codes_that_no_integer_type_holds_run_as_float_weights(tmp_path):
    job, onnx_stage = job_of(tmp_path, bits=8, alphabet="study")
    made, ranges = gpfq_quantized(job, onnx_stage, {"fp32", "int8"})["fp32"]
    assert ranges is None
    weight = read_packed(made.folder / "codes.safetensors")["conv"]
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(made.folder / "model.onnx").graph.initializer}
    assert (stored["conv"] == weight.values).all() and weight.levels == 257


@pytest.mark.parametrize(("section", "expected"), [
    ("bits: 9", "quantize.bits: found 9"), ("bits: 1", "quantize.bits: found 1"),
    ("sparse: {}", "expected one of l1, l0"), ("sparse: {l1: 0.1, l0: 0.1}", "expected one of l1, l0"),
    ("bits: 2, sparse: {l0: 0.1}", "leaves no step between levels; use bits: 3"),
    ("patches: 0", "quantize.patches: found 0"),
])
def test_an_impossible_section_is_refused(tmp_path, section, expected):
    (tmp_path / "r.yaml").write_text(f"name: a\nmodel: {{arch: vgg11}}\nquantize: {{method: gpfq, {section}}}\n")
    with pytest.raises(RecipeError) as wrong:
        load_recipe(tmp_path / "r.yaml")
    assert expected in str(wrong.value)


@pytest.mark.parametrize(("rest", "expected"), [
    ("engines: [{runtime: onnxruntime, precision: int4}]", "int4 does not hold the 6-bit deployable codes of quantize: gpfq; use precision int8"),
    ("engines: [{runtime: onnxruntime, precision: fp32}]", "gpfq makes codes for int8_weight_only and int8 engines, but engines asks for fp32 only"),
    ("prune: {method: sparse24}", "leaves zeros, which quantize: gpfq would fill"),
])
def test_what_does_not_go_with_it_is_refused(tmp_path, rest, expected):
    (tmp_path / "r.yaml").write_text(f"name: a\nmodel: {{arch: vgg11}}\nquantize: {{method: gpfq, bits: 6}}\n{rest}\n")
    with pytest.raises(RecipeError) as wrong:
        load_recipe(tmp_path / "r.yaml")
    assert expected in str(wrong.value)


@pytest.mark.parametrize("section", ["bits: 8, alphabet: study", "bits: 4, sparse: {l0: 0.05}"])
@pytest.mark.parametrize("precision", ["int4", "int8_weight_only", "int8"])
def test_no_integer_engine_goes_without_codes_that_fit_none(tmp_path, section, precision):
    text = f"name: a\nmodel: {{arch: vgg11}}\nquantize: {{method: gpfq, {section}}}\n"
    (tmp_path / "r.yaml").write_text(f"{text}engines: [{{runtime: onnxruntime, precision: fp32}}, {{runtime: onnxruntime, precision: {precision}}}]\n")
    with pytest.raises(RecipeError, match=rf"engines.1: {precision} does not hold the \d-bit .* codes of quantize: gpfq; use precision fp32"):
        load_recipe(tmp_path / "r.yaml")
    (tmp_path / "r.yaml").write_text(text)
    assert precision not in {engine.precision for engine in choose_engines(load_recipe(tmp_path / "r.yaml")).values()}


INT4, INT8 = ("int4", "int8_weight_only", "int8"), ("int8_weight_only", "int8")


@pytest.mark.parametrize(("bits", "alphabet", "sparse", "precisions"), [
    (2, "deployable", None, INT4), (4, "deployable", None, INT4), (5, "deployable", None, INT8),
    (8, "deployable", None, INT8), (3, "study", None, INT4), (4, "study", None, INT8),
    (8, "study", None, ("fp32",)), (4, "deployable", {"l0": 0.1}, ("fp32",)), (4, "deployable", {"l1": 0.1}, INT4),
])
def test_engines_that_hold_the_codes(bits, alphabet, sparse, precisions):
    # INT4 holds -7 … 7 (the study's 4 bits reach 8), INT8 -127 … 127 (its 8 bits reach 128)
    assert Gpfq(method="gpfq", bits=bits, alphabet=alphabet, sparse=sparse).precisions == precisions
