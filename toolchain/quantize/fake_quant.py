"""Fake quantization of our own: INT8 layers, and INT4 weights in the very blocks that the INT4 engine stores.

A layer is wrapped, not changed: its weight stays the float parameter that is trained, and each forward pass runs it
with the weight on the grid. There is no mode in which the rounding is off.

Weights get the codes that the engine stores, where its scales are FP32 too; TensorRT's of INT4 (and of INT8 on SM75)
are rounded to FP16 afterwards. Inputs are rounded as TensorRT does; engines for CPUs clip them at the same amax, but
round one that is never negative to 255 steps up to there, twice as finely (graph/qdq.code_grid).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.func import functional_call

from toolchain.graph.int4 import FEWEST_INPUTS, block_length
from toolchain.quantize.lsq import LsqInput, LsqWeight
from toolchain.quantize.ste import SteInput, SteWeight
from toolchain.recipe.schema import Lsq, Ste

INPUT_CODES = (-128, 127)


@dataclass(frozen=True)
class Grid:
    """Codes of a weight, and how many weights along the inputs of one output channel share a scale."""

    lowest: int
    highest: int
    length: int


@dataclass(frozen=True)
class Plan:
    """What is fake-quantized in one layer.

    input_amax: largest input magnitude kept at the start; None: the input stays float. tensor: name of the tensor it
    reads; layers that read the same one share its range, as they do in the engine.
    """

    grid: Grid
    input_amax: float | None
    tensor: str


def weight_grid(weight: Tensor, precision: Literal["int8", "int4"], block: int) -> Grid:
    """The grid on which the engine of this precision stores a weight (O, I, …), as qdq.py and int4.py do, with FP32
    scales."""
    inputs = weight[0].numel()
    if precision == "int8" or inputs < FEWEST_INPUTS:
        return Grid(-127, 127, inputs)
    return Grid(-8, 7, block_length(inputs, block))


class FakeQuantized(nn.Module):
    """`layer` run with its input and weight on their grids.

    owns: whether the input's quantizer is registered here; only one of the layers that share it may, or a checkpoint
    would hold it twice.
    """

    def __init__(
        self, layer: nn.Module, grid: Grid, weight: SteWeight | LsqWeight, read: SteInput | LsqInput | None, owns: bool
    ) -> None:
        super().__init__()
        self.layer, self.grid, self.weight_quantizer = layer, grid, weight
        self.input_quantizer = read if owns else None
        self.reading = [read] if read is not None else []

    def forward(self, x: Tensor) -> Tensor:
        """What the layer gives for `x`."""
        for quantizer in self.reading:
            x = quantizer(x)
        weight = self.layer.get_parameter("weight")
        on_grid = self.weight_quantizer(self._blocks(weight)).reshape(weight.shape)
        return functional_call(self.layer, {"weight": on_grid}, (x,))

    def learned(self) -> dict[str, Any]:
        """{"weight_amax": [per output channel]} or {"block_amax": [[per block] per output channel]}, "input_amax".

        INT4 weights whose scales follow from them need none, and an input that stays float has no amax.
        """
        amax = self.weight_quantizer.amax(self._blocks(self.layer.get_parameter("weight"))).squeeze(2)
        if self.reading:
            return {"input_amax": self.reading[0].amax(), "weight_amax": amax[:, 0].tolist()}
        return {"block_amax": amax.tolist()} if isinstance(self.weight_quantizer, LsqWeight) else {}

    def _blocks(self, weight: Tensor) -> Tensor:
        return weight.reshape(len(weight), -1, self.grid.length)


def fake_quantize(model: nn.Module, plans: Mapping[str, Plan], learn: Ste | Lsq) -> nn.Module:
    """Wrap the named Conv2d and Linear layers of `model`, in place."""
    read: dict[str, SteInput | LsqInput] = {}
    for name, plan in plans.items():
        layer, owns = model.get_submodule(name), False
        if plan.input_amax is not None and plan.tensor not in read:
            kind = LsqInput if isinstance(learn, Lsq) else SteInput
            read[plan.tensor], owns = kind(plan.input_amax, *INPUT_CODES), True
        weight = layer.get_parameter("weight")
        blocks = weight.reshape(len(weight), -1, plan.grid.length)
        codes = plan.grid.lowest, plan.grid.highest
        quantizer = LsqWeight(blocks, *codes, learn.start) if isinstance(learn, Lsq) else SteWeight(*codes)
        shared = read[plan.tensor] if plan.input_amax is not None else None
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, FakeQuantized(layer, plan.grid, quantizer, shared, owns))
    return model


def follow(model: nn.Module, following: bool) -> None:
    """Let the ranges of inputs follow the next batch, or stay. Said before each step: a batch moves a range once."""
    for module in model.modules():
        if isinstance(module, SteInput):
            module.following = following


def float_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of `model` under the names that it had before `fake_quantize`."""
    wrapped = [f"{name}." for name, module in model.named_modules() if isinstance(module, FakeQuantized)]
    state = {}
    for key, value in model.state_dict().items():
        prefix = next((prefix for prefix in wrapped if key.startswith(prefix)), "")
        state[prefix + key.removeprefix(prefix).removeprefix("layer.") if prefix else key] = value
    return state
