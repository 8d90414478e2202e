import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from train_data import SIZE, small_net, squares

from toolchain.errors import TrainError
from toolchain.export import export_onnx
from toolchain.graph.convert import convert
from toolchain.models.fold import fold_batchnorm
from toolchain.quantize.half import HalfWeights, half_finetune
from toolchain.recipe.schema import Export, HalfFinetune
from toolchain.train import evaluate

CFG = {dtype: HalfFinetune(method="half_finetune", dtype=dtype, train={"epochs": 2, "batch_size": 16}) for dtype in ("fp16", "bf16")}


def net():
    torch.manual_seed(0)
    return fold_batchnorm(small_net(dropout=0.0))


def test_weights_are_rounded_in_the_forward_pass_and_the_gradient_passes_straight():
    layer = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1 + 2**-9, 3.0]]))  # bf16 has 8 bits: 1 + 2^-9 lies below its half step
    model = HalfWeights(layer, torch.bfloat16)
    assert model(torch.tensor([[1.0, 0.0]])).item() == 1.0
    model(torch.tensor([[5.0, 7.0]])).backward()
    assert layer.weight.grad.tolist() == [[5.0, 7.0]]


def test_the_engine_stores_the_very_weights_and_is_as_good_as_the_history_says(tmp_path):
    start, data = net(), squares()
    model, history = half_finetune(copy.deepcopy(start), data, CFG["fp16"], folder=tmp_path, seed=0)
    assert evaluate(model, data.val, data.preprocess, 16) == history[-1]["val_top1"]
    assert not torch.equal(model[0].weight, start[0].weight)
    export_onnx(model, tmp_path / "float.onnx", Export(), SIZE, 3)
    convert(tmp_path / "float.onnx", tmp_path / "half.onnx", "fp16", "openvino")
    stored = {i.name: numpy_helper.to_array(i) for i in onnx.load(tmp_path / "half.onnx").graph.initializer}
    kept = next(array for array in stored.values() if array.shape == (8, 3, 3, 3))
    assert kept.dtype.itemsize == 2 and (kept.astype(np.float32) == model[0].weight.detach().numpy()).all()


def test_zeros_stay_and_epochs_that_a_checkpoint_holds_are_not_trained_again(tmp_path):
    def start():
        model = net()
        with torch.no_grad():
            model[0].weight[:, 1] = 0
        return model

    whole, _ = half_finetune(start(), squares(), CFG["bf16"], folder=tmp_path / "whole", seed=0)
    assert not whole[0].weight[:, 1].any() and whole[0].weight[:, 0].all()
    again, history = half_finetune(start(), squares(), CFG["bf16"], folder=tmp_path / "whole", seed=0)  # all epochs done
    assert len(history) == 2 and torch.equal(again[0].weight, whole[0].weight)


def test_a_weight_that_fp16_cannot_hold_is_named(tmp_path):
    model = net()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = 65520  # rounds to infinity; 65519 would be 65504
    with pytest.raises(TrainError, match=r"0.weight has a weight of magnitude 65520, but FP16 ends at 65504; use dtype: bf16"):
        half_finetune(model, squares(), CFG["fp16"], folder=tmp_path, seed=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_fp16_trains_with_loss_scaling_on_a_gpu(tmp_path):
    _, history = half_finetune(net(), squares(), CFG["fp16"], folder=tmp_path, seed=0)
    assert all(np.isfinite(epoch["train_loss"]) for epoch in history)
