"""Quantization-aware training: fake quantization with a straight-through gradient during a short fine-tuning.

Jacob et al. 2018, arXiv:1712.05877. It starts from the calibrated ranges and from folded BatchNorm, so the network
that is trained is the one that will be quantized; what comes out are float weights and the ranges they were trained
with, in the form that calibration delivers too.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from toolchain.errors import TrainError
from toolchain.prune.zeros import zeros_kept
from toolchain.recipe.schema import Qat
from toolchain.train import Loss, fit

if TYPE_CHECKING:
    from toolchain.data import Dataset

PROVIDERS = {"modelopt": "toolchain.quantize.modelopt"}

LearnedRanges = dict[str, dict[str, Any]]  # weight name -> {"input_amax": float, "weight_amax": [per output channel]}


def qat(
    model: nn.Module, dataset: Dataset, cfg: Qat, input_amax: Mapping[str, float], *, folder: Path, seed: int,
    loss: Loss | None = None,
) -> tuple[nn.Module, LearnedRanges, list[dict[str, Any]]]:
    """Fine-tune `model` (BatchNorm folded, float32) with INT8 fake quantization, which stays on in evaluation.

    input_amax: calibrated amax of each layer's input, by the name of the layer's weight ("features.0.weight").
    `cfg.int8.first_last: float` leaves the first and the last layer alone. Weights that are zero, as pruning leaves
    them, stay zero. Checkpoints and resumes as `fit` does.
    Returns the same model with the trained float weights, the ranges of each quantized layer, and the history, whose
    `val_top1` is the fake-quantized network's. Raises TrainError when the layers and the ranges do not match, or the
    provider would skip a layer; MissingPackage.
    """
    layers = layers_in_order(model, dataset.preprocess.image_size)
    _check_ranges(layers, input_amax)
    chosen = layers[1:-1] if cfg.int8.first_last == "float" else layers
    if not chosen:
        raise TrainError("quantize.int8.first_last: 'float' leaves none of the network's "
                         f"{len(layers)} layers to quantize; use int8")
    provider = import_module(PROVIDERS[cfg.int8_provider])
    fake = provider.fake_quantize(copy.deepcopy(model), {name: input_amax[f"{name}.weight"] for name in chosen})
    if missing := sorted(set(chosen) - provider.quantized_layers(fake)):
        done = len(chosen) - len(missing)
        raise TrainError(f"quantize: {cfg.int8_provider} would quantize {done} of {len(chosen)} layers, not "
                         f"{', '.join(missing[:3])} ({type(model.get_submodule(missing[0])).__name__}); use "
                         "plain nn.Conv2d and nn.Linear layers, or quantize: ptq")
    with zeros_kept(fake):
        history = fit(fake, dataset, cfg.train, folder=folder, seed=seed, loss=loss, title="qat")
    trained = fake.state_dict()
    model.load_state_dict({name: trained[name] for name in model.state_dict()})
    return model.eval(), _learned(model, chosen, input_amax), history


def layers_in_order(model: nn.Module, image_size: int) -> list[str]:
    """Names of the Conv2d and Linear layers (subclasses too) in the order in which they first run."""
    ran: list[str] = []
    named = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_pre_hook(lambda *_, name=name: ran.append(name)) for name, layer in named]
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, image_size, image_size))
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(ran))


def _check_ranges(layers: list[str], input_amax: Mapping[str, float]) -> None:
    wanted = {f"{name}.weight" for name in layers}
    unknown = sorted(wanted - set(input_amax))
    if unknown:
        raise TrainError(f"quantize: no calibrated input range for {', '.join(unknown[:3])} ({len(unknown)} of "
                         f"{len(wanted)} layers); the calibration belongs to another network")
    extra = sorted(set(input_amax) - wanted)
    if extra:
        raise TrainError(f"quantize: {', '.join(extra[:3])} would be quantized in the engine but not in training, "
                         "where only nn.Conv2d and nn.Linear are; use quantize: ptq")


def _learned(model: nn.Module, chosen: list[str], input_amax: Mapping[str, float]) -> LearnedRanges:
    learned = {}
    for name in chosen:
        weight = model.get_parameter(f"{name}.weight").detach()
        learned[f"{name}.weight"] = {"input_amax": float(input_amax[f"{name}.weight"]),
                                     "weight_amax": weight.abs().flatten(1).amax(dim=1).tolist()}
    return learned
