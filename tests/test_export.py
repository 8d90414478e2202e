"""Export: one clean file that computes what PyTorch computes, or one clear sentence."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from toolchain.errors import OnnxError
from toolchain.export import export_onnx
from toolchain.graph.layers import layers
from toolchain.graph.onnx_file import read_onnx
from toolchain.recipe.schema import Export


class Net(nn.Module):
    """Conv, BatchNorm, ReLU, global pooling, Dropout, Linear."""

    def __init__(self, classes=4):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.drop(self.features(x).mean(dim=(2, 3), keepdim=True).flatten(1)))


def net():
    torch.manual_seed(0)
    model = Net()
    model.features[1].running_mean.uniform_(-1, 1)
    model.features[1].running_var.uniform_(0.5, 2)
    return model


def test_the_file_is_clean_dynamic_and_equal_to_pytorch(tmp_path, capfd):
    path = tmp_path / "net.onnx"
    found = export_onnx(net(), path, Export(), 16, 4)
    assert found["relative_diff"] < 1e-5 and found["max_abs_diff"] < 1e-5
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [n.op_type for n in model.graph.node] == ["Conv", "Clip", "GlobalAveragePool", "Reshape", "Gemm"]
    assert model.opset_import[0].version == 21 and model.graph.input[0].name == "images"
    assert model.graph.output[0].name == "logits"
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert shape[0].dim_param and [d.dim_value for d in shape[1:]] == [3, 16, 16]
    assert [layer.name for layer in layers(read_onnx(path).graph)] == ["features.0", "head"]
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    assert capfd.readouterr().out == ""


def test_no_path_of_this_machine_is_in_the_file(tmp_path):
    export_onnx(net(), tmp_path / "net.onnx", Export(), 16, 4)
    content = (tmp_path / "net.onnx").read_bytes()
    assert b"site-packages" not in content and b".py" not in content and str(tmp_path).encode() not in content


def test_two_exports_are_equal_byte_for_byte(tmp_path):
    for name in ("a", "b"):
        export_onnx(net(), tmp_path / name, Export(), 16, 4)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_model_in_train_mode_is_exported_in_eval_mode_and_left_as_it_was(tmp_path):
    model = net().train()
    model.features[1].eval()  # a frozen BatchNorm stays frozen
    statistics = model.features[1].running_mean.clone()
    export_onnx(model, tmp_path / "net.onnx", Export(), 16, 4)
    assert model.training and model.drop.training and not model.features[1].training
    assert torch.equal(model.features[1].running_mean, statistics)


def test_the_recipes_opset_is_used(tmp_path):
    export_onnx(net(), tmp_path / "net.onnx", Export(opset=23), 16, 4)
    assert onnx.load(tmp_path / "net.onnx").opset_import[0].version == 23


def test_a_wrong_class_count_is_named(tmp_path):
    with pytest.raises(OnnxError, match=r"gives \(1, 4\) for 1 images; expected logits \(1, 10\)"):
        export_onnx(net(), tmp_path / "net.onnx", Export(), 16, 10)
    assert not list(tmp_path.iterdir())


class Branching(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :4] if x.sum() > 0 else -x.flatten(1)[:, :4]


def test_what_pytorch_cannot_export_is_one_short_sentence(tmp_path, capfd):
    with pytest.raises(OnnxError, match="Branching: PyTorch cannot export it to ONNX") as refused:
        export_onnx(Branching(), tmp_path / "net.onnx", Export(), 8, 4)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500
    assert capfd.readouterr().out == "" and not list(tmp_path.iterdir())


def test_a_difference_above_the_tolerance_is_an_error(tmp_path):
    with pytest.raises(OnnxError, match="logits differ from PyTorch by .* of the largest"):
        export_onnx(net(), tmp_path / "net.onnx", Export(tolerance=1e-12), 16, 4)
    assert not list(tmp_path.iterdir())


def test_a_batch_of_any_size_runs(tmp_path):
    import onnxruntime as ort

    export_onnx(net(), tmp_path / "net.onnx", Export(), 16, 4)
    session = ort.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 2, 7):
        assert session.run(None, {"images": np.zeros((batch, 3, 16, 16), np.float32)})[0].shape == (batch, 4)
