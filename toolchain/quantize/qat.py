"""Quantization-aware training: fake quantization during a short fine-tuning, and in every evaluation.

Jacob et al. 2018, arXiv:1712.05877. It starts from the calibrated ranges and from folded BatchNorm, so the network
that is trained is the one that will be quantized; no BatchNorm is left whose statistics would have to be frozen. What
comes out are float weights and the ranges they were trained with, in the form that calibration delivers too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from toolchain.distill.divergence import soft_target_loss
from toolchain.errors import TrainError, nearest
from toolchain.prune.zeros import zeros_kept
from toolchain.quantize import fake_quant
from toolchain.quantize.fake_quant import FakeQuantized, Plan, follow, weight_grid
from toolchain.quantize.lsq import mean_start
from toolchain.recipe.quantize import QatDistill
from toolchain.recipe.schema import Lsq, Qat, Ste
from toolchain.train import Loss, Progress, Step, cross_entropy, fit, label_loss

if TYPE_CHECKING:
    from pathlib import Path

    from toolchain.data import Dataset
    from toolchain.data.loader import Batch

LearnedRanges = dict[str, dict[str, Any]]  # weight name -> what `overlay` in calibrate.py reads
MEAN_IMAGES = 64  # whose inputs to each layer `learn.start: mean` takes the mean of


def qat(
    model: nn.Module, dataset: Dataset, cfg: Qat, input_amax: Mapping[str, float], *, folder: Path, seed: int,
    precision: Literal["int8", "int4"] = "int8", reads: Mapping[str, str] | None = None, loss: Loss | None = None,
) -> tuple[nn.Module, LearnedRanges, list[dict[str, Any]]]:
    """Fine-tune `model` (BatchNorm folded, float32) with the fake quantization of one precision's engine.

    INT8 rounds weights and inputs, INT4 weights alone (fake_quant.py says how near that is to each engine's grids);
    `first_last: float` and `keep_float` of its section leave layers alone. input_amax: calibrated amax of each layer's
    input, by the name of the layer's weight ("features.0.weight"). reads: the tensor that each layer reads, by the same
    names; layers of one tensor share its range. loss: in place of the section's. Weights that are zero, as pruning
    leaves them, stay zero. Checkpoints and resumes as `fit` does.
    Returns the same model with the trained float weights, the ranges of each quantized layer, and the history, whose
    `val_top1` is the fake-quantized network's. Raises TrainError when the layers and the ranges do not match, or the
    provider would skip a layer; MissingPackage.
    """
    layers = layers_in_order(model, dataset.preprocess.image_size)
    _check_ranges(layers, input_amax)
    chosen, starts = _chosen(layers, cfg, precision), dict(input_amax)
    if isinstance(cfg.learn, Lsq) and cfg.learn.start == "mean" and precision == "int8":
        means = _mean_inputs(model, dataset, chosen)
        starts |= {f"{name}.weight": 127 * mean_start(mean, 127) for name, mean in means.items()}
    plans = {}
    for name in chosen:
        weight = f"{name}.weight"
        plans[name] = Plan(weight_grid(model.get_parameter(weight), precision, cfg.int4.block),
                           starts[weight] if precision == "int8" else None, (reads or {}).get(weight, weight))
    provider = PROVIDERS[cfg.int8_provider if precision == "int8" else "own"]
    fake = provider(copy.deepcopy(model), plans, cfg.learn)
    if loss is None:
        loss = taught_by(model, cfg.distill, cfg) if cfg.distill else label_loss(cfg.train)
    with zeros_kept(fake):
        history = fit(fake, dataset, cfg.train, folder=folder, seed=seed, loss=_observing(loss, fake, cfg.learn),
                      title=f"qat {precision}")
    trained = fake_quant.float_state(fake)
    model.load_state_dict({name: trained[name] for name in model.state_dict()})
    return model.eval(), _learned(fake, plans), history


def layers_in_order(model: nn.Module, image_size: int) -> list[str]:
    """Names of the Conv2d and Linear layers (subclasses too) in the order in which they first run."""
    names = [name for name, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    ran: list[str] = []
    _watch(model, names, torch.zeros(1, 3, image_size, image_size), lambda name, _: ran.append(name))
    return list(dict.fromkeys(ran))


def taught_by(teacher: nn.Module, cfg: QatDistill, qat_cfg: Qat) -> Loss:
    """Soft targets of the float network `teacher`, of which a frozen copy is kept, beside the labels (Hinton 2015)."""
    frozen = copy.deepcopy(teacher).eval().requires_grad_(False)

    def loss(model: nn.Module, batch: Batch, progress: Progress) -> Step:
        logits = model(batch.images).float()
        with torch.no_grad(), torch.autocast(batch.images.device.type, enabled=False):
            wanted = frozen.to(batch.images.device)(batch.images)
        label = cross_entropy(logits, batch.labels, qat_cfg.train)
        soft = soft_target_loss(logits, wanted, cfg.temperature)
        return Step(cfg.ce_weight * label + cfg.kd_weight * soft, logits, {"label": label, "soft": soft})

    return loss


def _chosen(layers: list[str], cfg: Qat, precision: Literal["int8", "int4"]) -> list[str]:
    section = getattr(cfg, precision)
    for name in section.keep_float:
        if name not in layers:
            raise TrainError(f"quantize.{precision}.keep_float: found '{name}', expected names of layers "
                             f"({', '.join(layers[:3])}, …){nearest(name, layers)}")
    chosen = [name for name in (layers[1:-1] if section.first_last == "float" else layers)
              if name not in section.keep_float]
    if not chosen:
        raise TrainError(f"quantize.{precision}: first_last: {section.first_last} and keep_float leave none of the "
                         f"network's {len(layers)} layers to quantize; use first_last: {precision} or keep fewer")
    return chosen


def _by_modelopt(model: nn.Module, plans: Mapping[str, Plan], learn: Ste | Lsq) -> nn.Module:
    from toolchain.quantize import modelopt

    fake = modelopt.fake_quantize(model, {name: plan.input_amax or 0.0 for name, plan in plans.items()})
    if missing := sorted(set(plans) - modelopt.quantized_layers(fake)):
        raise TrainError(f"quantize: modelopt would quantize {len(plans) - len(missing)} of {len(plans)} layers, not "
                         f"{', '.join(missing[:3])} ({type(model.get_submodule(missing[0])).__name__}); use "
                         "provider: own, or plain nn.Conv2d and nn.Linear layers")
    return fake


# who puts the fake quantization of `plans` into a model, in place
PROVIDERS: dict[str, Callable[[nn.Module, Mapping[str, Plan], Ste | Lsq], nn.Module]] = {
    "modelopt": _by_modelopt,
    "own": fake_quant.fake_quantize,
}


def _observing(loss: Loss, fake: nn.Module, learn: Ste | Lsq) -> Loss:
    """`loss`, and before each step the question whether observers still follow: the epoch alone answers it."""
    share = learn.freeze_observers_after if isinstance(learn, Ste) else None
    if share is None:
        return loss

    def step(model: nn.Module, batch: Batch, progress: Progress) -> Step:
        follow(fake, progress.epoch < share * progress.epochs)
        return loss(model, batch, progress)

    return step


def _mean_inputs(model: nn.Module, dataset: Dataset, names: list[str]) -> dict[str, float]:
    """Mean |input| of each layer on the first images of train, the same ones in every process."""
    images = dataset.preprocess.normalize(dataset.train.images(range(min(MEAN_IMAGES, len(dataset.train)))))
    means: dict[str, float] = {}
    _watch(model, names, torch.from_numpy(images), lambda name, x: means.setdefault(name, x.abs().mean().item()))
    return means


def _watch(model: nn.Module, names: list[str], images: torch.Tensor, see: Callable[[str, torch.Tensor], Any]) -> None:
    """Run the model in eval mode; `see` is told the name and the input of each named layer when it runs."""
    def watched(name: str) -> Any:
        def look(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            see(name, given[0])

        return model.get_submodule(name).register_forward_pre_hook(look)

    hooks = [watched(name) for name in names]
    try:
        with torch.no_grad():
            model.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()


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


def _learned(fake: nn.Module, plans: Mapping[str, Plan]) -> LearnedRanges:
    learned = {}
    for name, plan in plans.items():
        layer = fake.get_submodule(name)
        if isinstance(layer, FakeQuantized):
            found = layer.learned()
        else:
            amax = layer.get_parameter("weight").detach().abs().flatten(1).amax(dim=1)
            found = {"input_amax": plan.input_amax, "weight_amax": amax.tolist()}
        if found:
            learned[f"{name}.weight"] = found
    return learned
