"""What formats lose, counted on values whose rounding is known, and on a network whose gradients are."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from toolchain.cli import main
from toolchain.explain.counts import Lost
from toolchain.explain.underflow import count, loss_scale, losses

EDGES = torch.tensor([0.0, 1e-8, 2.0**-25, 2.0**-24, -1.0, 65519.0, 65520.0, -1e6])


def counted(dtype: torch.dtype, scale: float = 1.0) -> tuple[int, int, int]:
    lost = Lost()
    count(lost, EDGES, dtype, scale)
    return lost.nonzero, lost.zero, lost.overflow


def test_half_the_smallest_subnormal_is_lost_and_65520_is_infinite() -> None:
    assert counted(torch.float16) == (7, 2, 2)  # 1e-8 and the tie 2^-25; 65520 and -1e6
    assert counted(torch.bfloat16) == (7, 0, 0)
    assert counted(torch.float8_e4m3fn) == (7, 3, 3)  # below 2^-10; above 448
    assert counted(torch.float8_e5m2) == (7, 3, 3)  # below 2^-17; above 57344: 65519 is nearer to 65536
    assert counted(torch.float16, 2.0**4) == (7, 0, 3)  # 1e-8 * 16 is nearer to 3 * 2^-24 than to 0


def test_the_loss_scale_is_the_largest_power_of_two_without_overflow() -> None:
    assert loss_scale(1.0, torch.float16) == 2.0**15  # 2^16 > 65504
    assert loss_scale(0.9, torch.float16) == 2.0**16
    assert loss_scale(1.0, torch.float8_e4m3fn) == 2.0**8
    assert loss_scale(0.0, torch.float16) == 1.0


class Tiny(nn.Module):
    """logits = (a x, 0): gradients of the mean cross-entropy are a line of arithmetic."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2, bias=False)
        self.layer.weight.data = torch.tensor([[weight], [0.0]])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_a_gradient_too_small_for_fp16_is_saved_by_the_loss_scale() -> None:
    # x = 20, label 0: p(label) = 1 / (1 + e^-20), so d loss / d logit 1 = 2.06e-9 (of logit 0, 1 - p is 0 in FP32), below 2^-25 = 2.98e-8; the weight's
    # gradient is 20 times that, 4.1e-8, and rounds to 2^-24
    found = losses(Tiny(1.0), torch.tensor([[20.0]]), torch.tensor([0]))
    assert found.layers == ["layer"] and found.loss == pytest.approx(2.06e-9, abs=3e-8)
    assert vars(found.total("fp16", ("activation gradients",))) == {"nonzero": 1, "zero": 1, "overflow": 0}
    assert vars(found.total("fp16", ("weight gradients",))) == {"nonzero": 1, "zero": 0, "overflow": 0}
    assert found.total("bf16", ("activation gradients",)).zero == 0
    assert found.scales["fp16"] == 2.0**40  # 65504 / 4.1e-8 = 1.6e12 > 2^40 = 1.1e12
    assert found.total("fp16", ("activation gradients",), scaled=True).zero == 0
    assert vars(found.total("fp16", ("weights",))) == {"nonzero": 1, "zero": 0, "overflow": 0}


def test_of_a_recipe_nothing_is_trained_or_written(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "prune" / "digits" / "unpruned.yaml"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["explain", "formats", str(recipe), "--set", "model.width=0.125", "--json"])
    assert not stop.value.code and list(tmp_path.iterdir()) == []
    found = json.loads(capsys.readouterr().out)["network"]
    assert "not trained yet" in found["from"]
    names = {row["layer"] for row in found["layers"]}
    assert "classifier" in names and len(names) == 9  # eight convolutions and the classifier of VGG-11
    assert {row["format"] for row in found["layers"]} == {"fp16", "bf16", "fp8_e4m3", "fp8_e5m2"}
    assert all(row["overflow"] == 0 for row in found["layers"] if row["scaled"])


def test_an_onnx_file_has_no_gradients(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "own_onnx.yaml"
    with pytest.raises(SystemExit) as stop:
        main(["explain", "formats", str(recipe)])
    assert stop.value.code == 2 and "has no gradients" in capsys.readouterr().err
