"""What QAT trains is what the engine's file holds: codes bit by bit, and top-1 on the digits."""

import copy
from collections import Counter
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from train_data import squares

from toolchain.data import load_dataset
from toolchain.engines.ort_session import realized_layers
from toolchain.errors import OnnxError, TrainError
from toolchain.export import export_onnx
from toolchain.graph.compare import open_session
from toolchain.graph.convert import convert
from toolchain.quantize import qat as qat_module
from toolchain.quantize.calibrate import calibrate, input_amax, overlay, read_by
from toolchain.quantize.fake_quant import Plan, fake_quantize, follow, weight_grid
from toolchain.quantize.qat import qat
from toolchain.ranges import Ranges
from toolchain.recipe.schema import (
    AdamW,
    Digits,
    Export,
    Int4,
    Int8,
    Lsq,
    MaxCalibrator,
    Qat,
    QatTrain,
    Sgd,
    Ste,
    Train,
)
from toolchain.train import fit

FOLLOWING, LSQ = Ste(method="ste", freeze_observers_after=0.5), Lsq(method="lsq")


class Net(nn.Module):
    """A stem, a depthwise layer (9 weights an output), two layers that read one tensor, and a head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.wide, self.short = nn.Conv2d(16, 48, 3, stride=2, padding=1), nn.Conv2d(16, 48, 1, stride=2)
        self.head = nn.Linear(48 * 4, classes)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.depthwise(x))
        x = torch.relu(self.wide(x) + self.short(x))
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 2), 1))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Digits judged on their training images too (0.2 points of 179 would be no image), a trained net, its ranges."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder, found = tmp_path_factory.mktemp("digits"), load_dataset(Digits(source="digits"), [])
    torch.manual_seed(0)
    model = Net(10)
    fit(model, found, Train(epochs=3, batch_size=16, optimizer=AdamW(method="adamw", lr=3e-3)), folder=folder, seed=0)
    export_onnx(model, folder / "float.onnx", Export(), 32, 10)
    images = found.preprocess.normalize(found.train.images(range(64)))
    yield replace(found, val=found.train), model, calibrate(folder / "float.onnx", [images], MaxCalibrator(method="max")), folder / "float.onnx"
    torch.set_num_threads(threads)


def trained(digits, folder, precision, **section):
    """The float file after QAT, the ranges for its engine, and the history."""
    data, model, ranges, path = digits
    cfg = Qat(method="qat", train=QatTrain(epochs=1, optimizer=Sgd(method="sgd", lr=5e-3)), **section)
    tuned, learned, history = qat(copy.deepcopy(model), data, cfg, input_amax(ranges, path), folder=folder, seed=1,
                                  precision=precision, reads=read_by(path))
    export_onnx(tuned, folder / "tuned.onnx", Export(), 32, 10)
    known = overlay(ranges if precision == "int8" else Ranges({}), learned, folder / "tuned.onnx")
    known.save(folder / "ranges.json")
    return tuned, Ranges.load(folder / "ranges.json"), history


def top1(path, data) -> float:
    session = open_session(path)
    right = [session.run(None, {session.get_inputs()[0].name: data.preprocess.normalize(data.val.images(range(at, at + 1)))}
                         )[0].argmax() == data.val.labels[at] for at in range(len(data.val))]
    return 100 * float(np.mean(right))


@pytest.mark.parametrize(("precision", "learn", "rules"), [
    ("int8", FOLLOWING, "cpu_x86"), ("int8", LSQ, "tensorrt"), ("int4", LSQ, "cpu_x86")])
def test_the_engines_file_is_as_good_as_the_history_says(digits, tmp_path, precision, learn, rules):
    _, ranges, history = trained(digits, tmp_path, precision, learn=learn)
    convert(tmp_path / "tuned.onnx", tmp_path / "engine.onnx", precision, rules, ranges)
    assert history[-1]["val_top1"] > 85
    assert top1(tmp_path / "engine.onnx", digits[0]) == pytest.approx(history[-1]["val_top1"], abs=0.2)


@pytest.mark.parametrize(("precision", "learn"), [("int8", LSQ), ("int4", Ste(method="ste")), ("int4", LSQ)])
def test_the_codes_of_the_engine_are_those_of_the_training(tmp_path, precision, learn):
    torch.manual_seed(3)
    model = Net(3)
    export_onnx(model, tmp_path / "float.onnx", Export(), 8, 3)
    amax = {f"{name}.weight": 2.0 for name in ("stem", "depthwise", "wide", "short", "head")}
    cfg = Qat(method="qat", provider="own", learn=learn, train=QatTrain(epochs=1, optimizer=Sgd(method="sgd", lr=0.05)))
    tuned, learned, _ = qat(model, squares(), cfg, amax, folder=tmp_path, seed=0, precision=precision)
    fake = fake_quantize(copy.deepcopy(tuned), {
        name.removesuffix(".weight"): Plan(weight_grid(tuned.get_parameter(name), precision, 32), None, name) for name in amax}, learn)
    expected = {}
    for name in amax:
        layer = fake.get_submodule(name.removesuffix(".weight"))
        if isinstance(learn, Lsq):
            scales = torch.tensor(learned[name].get("block_amax") or [[a] for a in learned[name]["weight_amax"]])
            with torch.no_grad():
                layer.weight_quantizer.scale.copy_(scales[:, :, None] / layer.grid.highest)
        weight = tuned.get_parameter(name).detach()
        blocks = weight.reshape(len(weight), -1, layer.grid.length)
        scale = layer.weight_quantizer.amax(blocks) / layer.grid.highest
        expected[name] = (layer.weight_quantizer(blocks) / scale).round().detach().numpy().astype(np.int8)
    export_onnx(tuned, tmp_path / "tuned.onnx", Export(), 8, 3)
    ranges = overlay(calibrate(tmp_path / "tuned.onnx", [squares().preprocess.normalize(squares().val.images(range(4)))],
                               MaxCalibrator(method="max")), learned, tmp_path / "tuned.onnx")
    convert(tmp_path / "tuned.onnx", tmp_path / "engine.onnx", precision, "openvino", ranges)
    stored = {i.name: numpy_helper.to_array(i) for i in onnx.load(tmp_path / "engine.onnx").graph.initializer}
    for name, codes in expected.items():
        found = stored[f"{name}_codes"]
        assert (found.dtype == ml_dtypes.int4) == (precision == "int4" and name != "depthwise.weight")
        found = found.astype(np.int8)
        found = found.T if name == "head.weight" and precision == "int4" else found
        assert (found.reshape(codes.shape) == codes).all(), name


def test_layers_of_one_tensor_learn_one_range_and_a_checkpoint_holds_it_once(tmp_path):
    torch.manual_seed(0)
    model = Net(3)
    names = ("stem", "depthwise", "wide", "short", "head")
    reads = {f"{name}.weight": "joined" if name in ("wide", "short") else name for name in names}
    cfg = Qat(method="qat", learn=LSQ, train=QatTrain(epochs=1, optimizer=Sgd(method="sgd", lr=0.05)))
    _, learned, _ = qat(model, squares(), cfg, {f"{name}.weight": 2.0 for name in names}, folder=tmp_path, seed=0, reads=reads)
    amax = {name: learned[f"{name}.weight"]["input_amax"] for name in names}
    assert amax["wide"] == amax["short"] != 2.0 and len(set(amax.values())) == 4


def test_a_tensor_with_two_readers_moves_its_range_once_a_step_and_both_see_one_grid():
    model = nn.ModuleDict({name: nn.Linear(4, 2, bias=False) for name in "ab"})
    model["b"].load_state_dict(model["a"].state_dict())
    fake = fake_quantize(model, {name: Plan(weight_grid(model[name].weight, "int8", 32), 1.0, "x") for name in "ab"}, FOLLOWING)
    x = torch.tensor([[11.0, 0.5, 0.013, -2.0]])
    for amax in (1.1, 1.1 + 0.01 * 9.9):  # 1 + 0.01 * (11 - 1), and a second step
        follow(fake.train(), True)
        assert torch.equal(fake["a"](x), fake["b"](x))
        assert fake["a"].learned()["input_amax"] == fake["b"].learned()["input_amax"] == pytest.approx(amax)
    follow(fake, False)
    fake["a"](x)
    assert fake["a"].learned()["input_amax"] == pytest.approx(1.199)


def test_a_cpu_engine_clips_where_the_training_did_and_computes_in_integers(digits, tmp_path):
    """Against TensorRT's file, whose grid is the training's; what is left on a CPU is the rounding, which is finer."""
    data, model, ranges, path = digits
    reads, weights = read_by(path), dict(model.named_parameters())
    learned = {name: {"input_amax": ranges.activations[tensor].amax / 4, "weight_amax": weights[name].abs().flatten(1).amax(1).tolist()}
               for name, tensor in reads.items()}
    fake = fake_quantize(copy.deepcopy(model), {
        name.removesuffix(".weight"): Plan(weight_grid(weights[name], "int8", 32), learned[name]["input_amax"], tensor)
        for name, tensor in reads.items()}, Ste(method="ste"))
    images = data.preprocess.normalize(data.val.images(range(64)))
    with torch.no_grad():
        expected = fake.eval()(torch.from_numpy(images)).numpy()
    marked = overlay(ranges, learned, path)
    unmarked = replace(marked, activations={name: replace(found, clips=False) for name, found in marked.activations.items()})

    def gap(rules, known):
        convert(path, tmp_path / "engine.onnx", "int8", rules, known)
        session = open_session(tmp_path / "engine.onnx")
        return np.sqrt(((session.run(None, {session.get_inputs()[0].name: images})[0] - expected) ** 2).sum(axis=1)).mean()

    assert gap("tensorrt", marked) < 0.1 * gap("cpu_x86", unmarked)
    assert gap("cpu_x86", marked) < 0.25 * gap("cpu_x86", unmarked)
    convert(path, tmp_path / "engine.onnx", "int8", "cpu_x86", marked)
    ran = Counter(layer["op"] for layer in realized_layers(tmp_path / "engine.onnx", "cpu_x86"))
    assert ran["QLinearConv"] + ran["QGemm"] == len(reads) and ran["QuantizeLinear"] == 1
    assert not {"Conv", "FusedConv", "Gemm", "MatMul", "Relu", "Clip", "DequantizeLinear"} & set(ran)


def test_evaluation_keeps_the_rounding_and_changes_no_range():
    torch.manual_seed(0)
    model = Net(3)
    plans = {name: Plan(weight_grid(model.get_submodule(name).weight, "int8", 32), 1.0, name) for name in ("stem", "head")}
    fake = fake_quantize(model, plans, FOLLOWING)
    follow(fake, True)
    images = torch.randn(4, 3, 8, 8)
    before = {name: value.clone() for name, value in fake.state_dict().items()}
    fake.eval()(images)
    assert all(torch.equal(value, before[name]) for name, value in fake.state_dict().items())
    in_training = fake.train()(images)  # the range moves once
    assert fake.get_submodule("stem").input_quantizer.amax() != 1.0
    assert torch.equal(fake.eval()(images), in_training)
    assert not torch.equal(in_training, Net(3).eval()(images))


@pytest.mark.parametrize(("learn", "precision"), [(FOLLOWING, "int8"), (LSQ, "int4")])
def test_an_interrupted_run_of_our_own_resumes_to_the_same_weights_and_ranges(tmp_path, learn, precision):
    amax = {f"{name}.weight": 2.0 for name in ("stem", "depthwise", "wide", "short", "head")}

    def run(folder, epochs, stop=None):
        torch.manual_seed(0)
        cfg = Qat(method="qat", learn=learn, distill={"temperature": 2}, train=QatTrain(epochs=epochs))
        return qat(Net(3), squares(), cfg, amax, folder=folder, seed=0, precision=precision, loss=stop)

    whole, learned, history = run(tmp_path / "whole", 2)
    plain, calls = qat_module.taught_by, iter(range(100))

    def cut(*given):
        loss = plain(*given)

        def step(model, batch, progress):
            if next(calls) == 3:  # in the second of two epochs of two steps
                raise KeyboardInterrupt
            return loss(model, batch, progress)

        return step

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(qat_module, "taught_by", cut)
        run(tmp_path / "cut", 2)
    resumed, again, _ = run(tmp_path / "cut", 2)
    assert again == learned and set(history[-1]["parts"]) == {"label", "soft"}
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("learn", [Ste(method="ste"), LSQ])
def test_pruned_zeros_stay_zero_in_int4(tmp_path, learn):
    torch.manual_seed(0)
    model = Net(3)
    with torch.no_grad():
        kept = torch.rand(model.wide.weight.shape) < 0.5
        kept[:, :2] = False  # whole blocks of zeros
        model.wide.weight.mul_(kept)
    amax = {f"{name}.weight": 2.0 for name in ("stem", "depthwise", "wide", "short", "head")}
    cfg = Qat(method="qat", learn=learn, train=QatTrain(epochs=1))
    tuned, learned, _ = qat(model, squares(), cfg, amax, folder=tmp_path, seed=0, precision="int4")
    assert torch.equal(tuned.wide.weight != 0, kept)
    assert set(learned) == (set(amax) if learn is LSQ else set())


def test_layers_kept_float_in_the_engine_are_float_in_training(tmp_path):
    amax = {f"{name}.weight": 2.0 for name in ("stem", "depthwise", "wide", "short", "head")}
    cfg = Qat(method="qat", learn=LSQ, int4=Int4(first_last="float", keep_float=("wide",)), int8=Int8(keep_float=("head",)),
              train=QatTrain(epochs=1))
    _, learned, _ = qat(Net(3), squares(), cfg, amax, folder=tmp_path / "4", seed=0, precision="int4")
    assert set(learned) == {"depthwise.weight", "short.weight"}
    _, learned, _ = qat(Net(3), squares(), cfg, amax, folder=tmp_path / "8", seed=0)
    assert set(learned) == set(amax) - {"head.weight"}
    with pytest.raises(TrainError, match=r"quantize.int4.keep_float: found 'wid', expected names .*did you mean 'wide'"):
        qat(Net(3), squares(), cfg.model_copy(update={"int4": Int4(keep_float=("wid",))}), amax, folder=tmp_path, seed=0, precision="int4")


def test_blocks_of_another_length_are_refused(tmp_path):
    export_onnx(Net(3), tmp_path / "float.onnx", Export(), 8, 3)
    with pytest.raises(OnnxError, match="layer head: learned ranges for 3 output channels in 2 blocks each, expected 3 in 6"):
        convert(tmp_path / "float.onnx", tmp_path / "out.onnx", "int4", "openvino", Ranges({}, blocks={"head.weight": [[1.0, 1.0]] * 3}))


def test_the_papers_start_takes_the_mean_of_inputs(tmp_path):
    cfg = Qat(method="qat", learn=Lsq(method="lsq", start="mean"), train=QatTrain(epochs=1, optimizer=Sgd(method="sgd", lr=1e-12)))
    amax = {f"{name}.weight": 2.0 for name in ("stem", "depthwise", "wide", "short", "head")}
    data = squares()
    _, learned, _ = qat(Net(3), data, cfg, amax, folder=tmp_path, seed=0)
    mean = np.abs(data.preprocess.normalize(data.train.images(range(64)))).mean()
    assert learned["stem.weight"]["input_amax"] == pytest.approx(127 * 2 * mean / np.sqrt(127), rel=1e-4)
