"""Low-rank factorization: a layer becomes a chain only where the engine is measurably faster for it; then fine-tuning.

A layer is timed alone, so that what its input and output cost (a change of layout, a launch) counts for the layer and
for the chain; how much the whole network gained is measured once more, on the whole network.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from toolchain import console
from toolchain.errors import TrainError
from toolchain.files import write_text
from toolchain.recipe.prune import LowRank
from toolchain.steps.fitting import Lesson, keep_history, val_top1
from toolchain.steps.job import Job
from toolchain.workdir import POLL_S, Stage, rank

if TYPE_CHECKING:
    from torch import nn

    from toolchain.graph.layer_file import LayerShape
    from toolchain.steps.timing import Clock

DECIDED = "low_rank.json"  # {"layers", "rejected", "latency"}: measured once, and the same again after an interruption
SHOWN = 12  # layers in one message

Ratio = dict[str, float]  # {"value", "low", "high"}: above 1 is faster as a chain


def pruned_by_low_rank(job: Job, cfg: LowRank, student: Stage, taught: Lesson, folder: Path) -> str:
    """The student with layers factorized, fine-tuned, in `folder`. Raises TrainError where no layer is worth it."""
    from toolchain.models.store import load_architecture, load_model, save_model
    from toolchain.prune.cost import cost
    from toolchain.prune.low_rank import low_rank
    from toolchain.train import fit

    size, before, data = job.recipe.data.image_size, load_model(student.folder), job.dataset()
    decided = _decided(job, cfg, before, folder)
    model = low_rank(before, decided["layers"], size)
    left = cost(model, size)
    with taught(model, cfg.finetune, folder) as loss:
        epochs = fit(model, data, cfg.finetune, folder=folder, seed=job.recipe.seed + 1, loss=loss,
                     title="prune: fine-tune")
    record = {"round": 1, "epochs": len(epochs), "val_top1": val_top1(model, data, cfg.finetune, epochs),
              "parameters": left.parameters, "macs": left.macs}
    if rank() == 0:
        history = {"method": "low_rank", "image_size": size, **decided, "rounds": [record]}
        save_model(folder, model, {**load_architecture(student.folder), "pruned": history})
        keep_history(folder, epochs)
    return (f"{len(decided['layers'])} layers factorized, {len(decided['rejected'])} not faster; {len(epochs)} epochs, "
            f"val top-1 {record['val_top1']:.2f} %")


def _decided(job: Job, cfg: LowRank, model: nn.Module, folder: Path) -> dict[str, Any]:
    """What rank 0 chose and measured; every rank and every later attempt takes the same."""
    path = folder / DECIDED
    if rank() == 0 and not path.is_file():
        write_text(path, json.dumps(_decide(job, cfg, model), indent=1))
    while not path.is_file():
        time.sleep(POLL_S)
    return json.loads(path.read_text(encoding="utf-8"))


def _decide(job: Job, cfg: LowRank, model: nn.Module) -> dict[str, Any]:
    from toolchain.prune.low_rank import choose, input_sizes, low_rank, spectra
    from toolchain.steps.timing import clock

    sizes = input_sizes(model, job.recipe.data.image_size)
    known = spectra(model, cfg.scheme, sizes)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    layers = choose(known, cfg, parameters)
    if cfg.engine is None:
        return {"layers": layers, "rejected": {}, "latency": None}
    how = clock(job.recipe, cfg.engine)
    ratios: dict[str, Ratio] = {}
    rejected: dict[str, Any] = {}
    while True:  # where a budget is to be met, other layers make up for the rejected ones
        ratios = _ratios(model, layers, sizes, how, ratios)
        slow = {name: {"ranks": layers[name]["ranks"], "ratio": ratios[_key(name, found)]}
                for name, found in layers.items() if ratios[_key(name, found)]["low"] <= 1}
        rejected |= slow
        if not slow:
            break
        layers = {name: found for name, found in layers.items() if name not in slow}
        if len(rejected) == len(known) or (not layers and cfg.params is None):
            raise TrainError(_nothing_faster(rejected, cfg, how))
        if cfg.params is not None:
            layers = _again(known, rejected, cfg, parameters)
    layers = {name: {**found, "ratio": ratios[_key(name, found)]} for name, found in layers.items()}
    return {"layers": layers, "rejected": rejected, "latency": _whole(job, model, low_rank(
        model, layers, job.recipe.data.image_size), how)}


def _again(known: Mapping[str, Any], rejected: Mapping[str, Any], cfg: LowRank, parameters: int) -> dict[str, Any]:
    from toolchain.prune.low_rank import choose

    try:
        return choose({name: found for name, found in known.items() if name not in rejected}, cfg, parameters)
    except TrainError as error:
        raise TrainError(f"{error}; not faster, so left as they are: {_told(rejected)}") from None


def _ratios(
    model: nn.Module, layers: Mapping[str, Any], sizes: Mapping[str, tuple[int, ...]], how: Clock,
    known: Mapping[str, Ratio],
) -> dict[str, Ratio]:
    """Speed-up of each layer's chain over the layer; equal layers are timed once."""
    from toolchain.prune.factors import chain

    found, timed = dict(known), dict[Any, Ratio]()
    with console.bar("prune: layers timed", len(layers)) as bar:
        for name, factors in layers.items():
            layer = model.get_submodule(name)
            whole = layer_shapes([layer], sizes[name])
            parts = layer_shapes(chain(layer, factors["scheme"], factors["ranks"]), sizes[name])  # type: ignore[arg-type]
            pair = (*whole, *parts)
            if _key(name, factors) not in found:
                timed[pair] = found[_key(name, factors)] = timed.get(pair) or _ratio(whole, parts, how)
            bar.advance(1)
    return found


def layer_shapes(layers: Any, size: tuple[int, ...]) -> list[LayerShape]:
    """A chain of Conv2d or Linear layers as the engine sees it, with a ReLU after the last.

    size: what the first one reads, without the batch: (C, H, W) or (..., features). A linear layer that reads several
    positions is the 1 x 1 convolution that computes the same.
    """
    from toolchain.graph.layer_file import LayerShape

    shapes: list[LayerShape] = []
    layers = list(layers)
    for number, layer in enumerate(layers):
        outputs, inputs = layer.weight.shape[:2]
        relu = number == len(layers) - 1
        if not hasattr(layer, "kernel_size"):
            positions = prod(size[:-1])
            op = "linear" if positions == 1 else "conv"
            shapes.append(LayerShape(op, inputs, outputs, height=positions, relu=relu))  # type: ignore[arg-type]
            continue
        high, wide = shapes[-1].output_size if shapes else size[1:]
        shapes.append(LayerShape(
            "conv", inputs * layer.groups, outputs, layer.kernel_size, layer.stride, _padding(layer), layer.dilation,
            layer.groups, high, wide, relu))
    return shapes


def _padding(layer: Any) -> tuple[int, int]:
    if not isinstance(layer.padding, str):
        return layer.padding
    high, wide = (gap * (kernel - 1) // 2 * (layer.padding == "same")
                  for gap, kernel in zip(layer.dilation, layer.kernel_size, strict=True))
    return high, wide


def _ratio(whole: list[LayerShape], parts: list[LayerShape], how: Clock) -> Ratio:
    from toolchain.graph.layer_file import write_layers
    from toolchain.measure.latency import speedup
    from toolchain.steps.timing import timed_ms

    with TemporaryDirectory() as place:
        files = {"whole": Path(place) / "whole.onnx", "chain": Path(place) / "chain.onnx"}
        write_layers(files["whole"], whole)
        write_layers(files["chain"], parts)
        samples = timed_ms(files, how)
    return speedup(samples["whole"], samples["chain"], how.seed)


def _whole(job: Job, model: nn.Module, thinner: nn.Module, how: Clock) -> dict[str, Any]:
    """p50 of the whole network's engine, before and after, milliseconds, and the speed-up with its interval."""
    from toolchain.engines.record import engine_name
    from toolchain.export import export_onnx
    from toolchain.measure.latency import speedup
    from toolchain.runner.rounds import summary
    from toolchain.steps.timing import timed_ms

    classes, size = len(job.dataset().classes), job.recipe.data.image_size
    with TemporaryDirectory() as place:
        files = {"before": Path(place) / "before.onnx", "after": Path(place) / "after.onnx"}
        export_onnx(model, files["before"], job.recipe.export, size, classes)
        export_onnx(thinner, files["after"], job.recipe.export, size, classes)
        samples = timed_ms(files, how)
    ratio = speedup(samples["before"], samples["after"], how.seed)
    console.log(f"  prune: the whole network is {ratio['value']:.2f}x as fast ({ratio['low']:.2f} to "
                f"{ratio['high']:.2f}) on {engine_name(how.engine)} at batch {how.batch}")
    return {"engine": engine_name(how.engine), "batch": how.batch, "threads": how.threads,
            "before_p50_ms": summary(samples["before"])["p50"], "after_p50_ms": summary(samples["after"])["p50"],
            "speedup": ratio}


def _nothing_faster(rejected: Mapping[str, Any], cfg: LowRank, how: Clock) -> str:
    smaller = next((name for name in ("rank", "params") if getattr(cfg, name) is not None), "energy")
    change = "larger" if smaller == "params" else "smaller"
    engine = f"{how.engine.runtime} {how.engine.precision}"
    return (f"prune: no layer is faster as a chain on {engine} at batch {how.batch}: {_told(rejected)}; use a "
            f"{change} prune.{smaller}, or prune.method: channels, whose smaller layers are no more layers")


def _told(rejected: Mapping[str, Any]) -> str:
    """Each layer's ratio, the best first."""
    best = sorted(rejected.items(), key=lambda item: -item[1]["ratio"]["value"])
    told = [f"{name} {found['ratio']['value']:.2f}x at rank {' and '.join(map(str, found['ranks']))}"
            for name, found in best[:SHOWN]]
    return ", ".join(told) + (f" and {len(best) - SHOWN} more" if len(best) > SHOWN else "")


def _key(name: str, found: Mapping[str, Any]) -> str:
    return f"{name}@{'x'.join(map(str, found['ranks']))}"
