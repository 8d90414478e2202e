"""The table that latency-driven pruning predicts by: what every layer costs on the engine, at every width it may get.

A layer is timed alone, as an engine with one convolution or linear layer (and its ReLU) at its true image size, stride,
padding and groups. What an engine costs besides its layers (a call, a change of layout at both ends) is found from
chains of one and of three equal layers, as base + slope * elements in and out, and taken off. A layer that runs alone
finds its weights in the cache, in a whole network it does not, and additions and pools are in no layer: what each
weight and each activation costs more is fitted, with a factor and a constant, to whole networks: the unpruned one, and
some of random widths. (Without these two, predictions for ResNet-18 in FP32 ranked networks no better than MACs do.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain import console
from toolchain.files import write_text
from toolchain.graph.layer_file import LayerShape, layer_shapes, write_layers
from toolchain.recipe.prune import Latency
from toolchain.steps.job import ONNX_PACKAGES, Job, plain
from toolchain.steps.teaching import fresh_student
from toolchain.steps.timing import Clock, clock, conditions, timed_ms
from toolchain.workdir import Stage, sha256_tree

if TYPE_CHECKING:
    from torch import nn

    from toolchain.measure.latency import Samples
    from toolchain.prune.latency import Predictor, Ties, Widths

FINE, COARSE = 12, 4  # widths along each axis at the other's full width, and along both axes of the grid
TOGETHER = 24  # engines that are open and timed at once; what was timed is kept after each such lot
RANDOM_NETWORKS = 12  # besides the unpruned one, to calibrate four costs with
COSTS = ("scale", "ms_per_weight", "ms_per_element", "base_ms")
CHAIN = 3  # equal layers, against one, tell the layer from what an engine costs besides
LEAST_OWN = 0.1  # of a layer's time is the layer's own, however large the fitted overhead
TABLE_ROUNDS, TABLE_RUNS = 7, 5  # at most: medians over many engines need less than one decision does


def latency_table(job: Job, cfg: Latency) -> Stage:
    """The stage that holds table.json. It depends on the network's shape and on the machine, not on any training."""
    how, size = clock(job.recipe, cfg.engine), job.recipe.data.image_size

    def make(folder: Path) -> str:
        table = measured_table(fresh_student(job, 0), size, cfg, how, folder, export_of(job))
        write_text(folder / "table.json", json.dumps(table, indent=1))
        (folder / "points.json").unlink(missing_ok=True)
        return f"{sum(len(layer['points']) for layer in table['surfaces'])} layer engines"

    section = [plain(job.recipe.model, "weights"), size, cfg.round_to, cfg.cap, conditions(how),
               plain(job.recipe.export), [sha256_tree(path) for path in job.imports]]
    return job.work.stage(
        "latency_table", make, section=section, inputs=[job.data],
        rooms=["prune", "models", "engines", "graph", "measure/latency.py", "export.py", "steps/latency_table.py",
               "steps/timing.py"],
        packages=["torch", "torch-pruning", *ONNX_PACKAGES])


def export_of(job: Job) -> Callable[[nn.Module, Path], None]:
    """(network, file) -> the network's clean float ONNX file, as the recipe exports."""
    from toolchain.export import export_onnx

    classes = len(job.dataset().classes)

    def export(network: nn.Module, path: Path) -> None:
        export_onnx(network, path, job.recipe.export, job.recipe.data.image_size, classes)

    return export


def measured_table(
    model: nn.Module, size: int, cfg: Latency, how: Clock, folder: Path, export: Callable[[nn.Module, Path], None],
) -> dict[str, Any]:
    """Time every layer of `model` at the widths it may get; JSON-able. Goes on from folder/points.json if it is there.

    Raises EngineError, OnnxError, TrainError.
    """
    from toolchain.prune.latency import least_units, ties

    tied, full = ties(model, size)
    least = {group: least_units(units, cfg.cap, cfg.round_to) for group, units in full.items()}
    export(model, folder / "network.onnx")
    shapes = layer_shapes(folder / "network.onnx")
    (folder / "network.onnx").unlink()
    grids = {name: grid(shape, tied.get(name), full, least, cfg.round_to) for name, shape in shapes.items()}
    pairs = [pair for shape in overhead_shapes(shapes.values()) for pair in ((shape,), (shape,) * CHAIN)]
    wanted = list(dict.fromkeys([*pairs, *((point,) for points, _ in grids.values() for point in points)]))
    ms = _timed(wanted, how, folder / "points.json")
    overhead = fitted_overhead([(pair[0].elements, ms[(pair[0],)], ms[(pair[0],) * CHAIN])
                                for pair in pairs if len(pair) == 1])
    table = {"schema_version": 1, "engine": plain(how.engine), "overhead_ms": overhead,
             **_surfaces(grids, {key[0]: value for key, value in ms.items() if len(key) == 1}, overhead)}
    return {**table, "calibration": _calibration(model, size, table, tied, full, least, cfg, how, folder, export)}


def grid(
    shape: LayerShape, tied: Ties | None, full: Widths, least: Widths, round_to: int
) -> tuple[list[LayerShape], tuple[list[int], list[int]]]:
    """The shapes to time for one layer, and the coarse axes (inputs, outputs) of its surface."""
    from toolchain.prune.latency import axis

    whole = (shape.in_channels, shape.out_channels)
    if tied is None:
        return [shape], ([whole[0]], [whole[1]])
    smallest = tied.channels({group: full[group] - least[group] for group in full})
    steps = [round_to * max(1, min(per_unit.values(), default=1)) for per_unit in (tied.per_input, tied.per_output)]
    both = list(zip(whole, smallest, steps, strict=True))
    if _is_depthwise(shape):  # its inputs are its outputs
        return [_at(shape, width, width) for width in axis(*both[1], FINE)], ([whole[0]], [whole[1]])
    fine, coarse = ([axis(*one, most) for one in both] for most in (FINE, COARSE))
    points = [*((i, whole[1]) for i in fine[0]), *((whole[0], o) for o in fine[1]),
              *((i, o) for i in coarse[0] for o in coarse[1])]
    return [_at(shape, i, o) for i, o in dict.fromkeys(points)], (coarse[0], coarse[1])


def _is_depthwise(shape: LayerShape) -> bool:
    return shape.groups == shape.in_channels == shape.out_channels > 1


def _at(shape: LayerShape, inputs: int, outputs: int) -> LayerShape:
    groups = inputs if _is_depthwise(shape) else shape.groups
    return replace(shape, in_channels=inputs, out_channels=outputs, groups=groups)


def overhead_shapes(shapes: Iterable[LayerShape]) -> list[LayerShape]:
    """1 x 1 convolutions as wide as the inputs of `shapes`, and half as wide: cheap layers show what is around them."""
    found = {(width, shape.height, shape.width) for shape in shapes if shape.op == "conv"
             for width in (shape.in_channels, shape.in_channels // 2) if width >= 4}
    return [LayerShape("conv", width, width, height=high, width=wide) for width, high, wide in sorted(found)]


def fitted_overhead(chains: Sequence[tuple[int, float, float]]) -> dict[str, float]:
    """{"base", "per_element"} ms from (elements in and out, ms of one layer, ms of CHAIN equal ones); never negative.

    Of each chain one = overhead + layer, many = overhead + CHAIN * layer.
    """
    if not chains:
        return {"base": 0.0, "per_element": 0.0}
    elements = np.array([n for n, _, _ in chains], np.float64)
    overhead = np.array([max(0.0, (CHAIN * one - many) / (CHAIN - 1)) for _, one, many in chains])
    weight = 1 / np.array([one for _, one, _ in chains])  # relative errors: large layers are noisier in ms
    rows = np.stack([np.ones_like(elements), elements], axis=1) * weight[:, None]
    base, slope = np.linalg.lstsq(rows, overhead * weight, rcond=None)[0]
    if base < 0 or slope < 0 or len(chains) < 2:
        base, slope = (0.0, float((overhead * elements * weight**2).sum() / (elements**2 * weight**2).sum())
                       ) if base < 0 else (float(np.median(overhead)), 0.0)
    return {"base": float(base), "per_element": float(slope)}


def _timed(
    wanted: Sequence[tuple[LayerShape, ...]], how: Clock, kept: Path
) -> dict[tuple[LayerShape, ...], float]:
    """Typical ms of each chain of layers, TOGETHER engines at a time, in random order; those in `kept` stay."""
    names = {json.dumps([asdict(shape) for shape in chain]): chain for chain in wanted}
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    left = [name for name in names if name not in known]
    order = [left[at] for at in np.random.default_rng(how.seed).permutation(len(left))]
    short = replace(how, rounds=min(how.rounds, TABLE_ROUNDS), runs=min(how.runs, TABLE_RUNS))
    with console.bar("latency table", len(names)) as bar:
        bar.advance(len(names) - len(left))
        for start in range(0, len(order), TOGETHER):
            lot = order[start : start + TOGETHER]
            with TemporaryDirectory() as scratch:
                files = {str(at): Path(scratch) / f"{at}.onnx" for at in range(len(lot))}
                for name, path in zip(lot, files.values(), strict=True):
                    write_layers(path, names[name])
                samples = timed_ms(files, short, Path(scratch))
            known |= {name: quiet(found) for name, found in zip(lot, samples.values(), strict=True)}
            write_text(kept, json.dumps(known))
            bar.advance(len(lot))
    return {chain: known[name] for name, chain in names.items()}


def quiet(samples: Samples) -> float:
    """The 10 % quantile of all samples, ms: what a quiet machine gives, whatever else runs; it repeats best."""
    return float(np.percentile(samples, 10))


def _surfaces(
    grids: Mapping[str, tuple[list[LayerShape], tuple[list[int], list[int]]]], ms: Mapping[LayerShape, float],
    overhead: Mapping[str, float],
) -> dict[str, Any]:
    """{"layers": name -> index, "surfaces": [...]}: layers of the same shape share one."""
    layers: dict[str, int] = {}
    surfaces: list[dict[str, Any]] = []
    for name, (shapes, coarse) in grids.items():
        points = []
        for shape in shapes:
            spent = overhead["base"] + overhead["per_element"] * shape.elements
            own = max(ms[shape] - spent, LEAST_OWN * ms[shape])
            inputs = coarse[0][-1] if _is_depthwise(shape) else shape.in_channels  # one axis alone
            points.append([inputs, shape.out_channels, own])
        whole = max(shapes, key=lambda shape: (shape.in_channels, shape.out_channels))
        surface = {"shape": asdict(whole), "points": points, "coarse": [list(coarse[0]), list(coarse[1])]}
        if surface not in surfaces:
            surfaces.append(surface)
        layers[name] = surfaces.index(surface)
    return {"layers": layers, "surfaces": surfaces}


def predictor(
    table: Mapping[str, Any], tied: Mapping[str, Ties], full: Widths, costs: Sequence[float] | None = None
) -> Predictor:
    """Milliseconds at any widths by the content of table.json, for a network whose channels are tied so.

    costs: in the order of COSTS; None: those that were calibrated.
    """
    from toolchain.prune.latency import Predictor, Surface, Ties

    scale, per_weight, per_element, base = costs or [table["calibration"][name] for name in COSTS]

    def layer(name: str, entry: Mapping[str, Any]) -> tuple[Ties, Callable[[int, int], float]]:
        fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value
                                  for key, value in entry["shape"].items()}
        shape = LayerShape(**fields)
        surface = Surface({(i, o): ms for i, o, ms in entry["points"]}, (entry["coarse"][0], entry["coarse"][1]))

        def ms(inputs: int, outputs: int) -> float:
            at = _at(shape, inputs, outputs)
            return scale * surface.at(inputs, outputs) + per_weight * at.weights + per_element * at.elements

        return tied.get(name) or Ties(shape.in_channels, shape.out_channels, {}, {}), ms

    layers = {name: layer(name, table["surfaces"][at]) for name, at in table["layers"].items()}
    return Predictor(layers, full, base=base)


def _calibration(
    model: nn.Module, size: int, table: Mapping[str, Any], tied: Mapping[str, Ties], full: Widths, least: Widths,
    cfg: Latency, how: Clock, folder: Path, export: Callable[[nn.Module, Path], None],
) -> dict[str, Any]:
    """Whole networks against their layers: COSTS, and the networks [{widths, layers_ms, weights, elements, ms}]."""
    from toolchain.prune.latency import calibrated

    rng = np.random.default_rng(how.seed)
    drawn = [random_widths(rng, full, least, cfg.round_to) for _ in range(RANDOM_NETWORKS)]
    networks = [full, *(kept for kept in drawn if kept != full)]
    found = [quiet(one) for one in whole_networks(model, size, networks, how, folder, export)]
    counts = [predictor(table, tied, full, costs) for costs in ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0))]
    features = [[count.sum_ms(kept) for count in counts] for kept in networks]
    return {**dict(zip(COSTS, calibrated(features, found), strict=True)), "networks": [
        {"widths": kept, "layers_ms": own, "weights": weights, "elements": elements, "ms": ms}
        for kept, (own, weights, elements), ms in zip(networks, features, found, strict=True)]}


def random_widths(rng: np.random.Generator, full: Widths, least: Widths, round_to: int) -> Widths:
    """Each group's units drawn evenly from the multiples of `round_to` between its least and all."""
    return {group: int(rng.choice(sorted({units, *range(least[group], units, round_to)})))
            for group, units in full.items()}


def whole_networks(
    model: nn.Module, size: int, networks: Sequence[Widths], how: Clock, folder: Path,
    export: Callable[[nn.Module, Path], None],
) -> list[Samples]:
    """Milliseconds (rounds, runs) of `model` at each of the widths, interleaved; which units stay does not matter."""
    from toolchain.prune.groups import remove
    from toolchain.prune.latency import ties

    full = ties(model, size)[1]
    with TemporaryDirectory(dir=folder) as scratch:
        files = {}
        for at, kept in enumerate(networks):
            smaller, _ = remove(model, size, {group: list(range(kept[group], full[group])) for group in kept})
            files[str(at)] = Path(scratch) / f"{at}.onnx"
            export(smaller, files[str(at)])
        return list(timed_ms(files, how, Path(scratch)).values())
