"""One mixed engine on trial: an assignment becomes a file, and where latency counts an engine, and is measured."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.engines import backend, load_engine
from toolchain.recipe.schema import Engine
from toolchain.steps.job import Job
from toolchain.steps.timing import Clock, build_timed, side_by_side

if TYPE_CHECKING:
    import numpy as np

    from toolchain.measure.latency import Samples

PRECISIONS = ("fp32", "fp16", "int8", "int8_weight_only", "int4")
TOGETHER = 6  # engines that are open at a time, beside those they are compared with


class Trial:
    """What one mixed engine starts from. folder: for scratch files.

    names: layer -> number of its weights, in order. small: layers of too few weights per output for INT4.
    """

    def __init__(self, job: Job, engine: Engine, rules: str, onnx: Path, ranges: Path, folder: Path) -> None:
        from toolchain.graph.int4 import FEWEST_INPUTS
        from toolchain.graph.layers import layers
        from toolchain.graph.onnx_file import read_onnx
        from toolchain.ranges import Ranges

        self.job, self.engine, self.rules, self.onnx = job, engine, rules, onnx
        self.ranges, self.scratch, self.images = Ranges.load(ranges), folder / "trial", folder / "images"
        found = layers(read_onnx(onnx).graph)
        self.names = {layer.name: int(layer.array.size) for layer in found}
        self.small = {layer.name for layer in found
                      if layer.array.size // layer.array.shape[layer.axis] < FEWEST_INPUTS}
        shutil.rmtree(self.scratch, ignore_errors=True)  # of an interrupted run

    def layer_bytes(self) -> dict[str, dict[str, int]]:
        """layer -> precision -> bytes of its weight and bias, for every precision."""
        from toolchain.graph.mixed_bytes import layer_bytes
        from toolchain.graph.rules import RULES

        return layer_bytes(self.onnx, RULES[self.rules], self.ranges, self._int4.block, PRECISIONS)

    def file_bytes(self, assignment: Mapping[str, str]) -> int:
        """Bytes of all weights in the file of this assignment."""
        from toolchain.graph.mixed_bytes import mixed_bytes
        from toolchain.graph.rules import RULES

        return mixed_bytes(self.onnx, RULES[self.rules], self.ranges, self._int4.block, assignment)

    def rest_bytes(self) -> int:
        """Bytes of what belongs to no layer."""
        halves = self.file_bytes(dict.fromkeys(self.names, "fp16"))
        return halves - sum(of["fp16"] for of in self.layer_bytes().values())

    def rest_float(self, offered: Sequence[str]) -> str:
        """The float of layers that these precisions leave alone."""
        from toolchain.graph.mixed import typed
        from toolchain.graph.rules import RULES

        return typed(RULES[self.rules], offered).int8_float

    def fp32_bytes(self) -> int:
        """Weight bytes of the FP32 engine's file."""
        from toolchain.graph.storage import weight_bytes

        return weight_bytes(self.onnx)

    def check(self, assignment: Mapping[str, str], joins: bool, judge: bool) -> dict[str, Any]:
        """{"weight_bytes"} of the rebuilt file; judge: and "kl_nats", mean KL(float || mixed) on the scan's images."""
        path = self.scratch / "checked" / "model.onnx"
        info = self._converted(assignment, joins, path)
        return {"weight_bytes": info["weight_bytes"], **({"kl_nats": self._kl(path)} if judge else {})}

    def engine_folder(self, name: str, assignment: Mapping[str, str] | None, joins: bool = True) -> Path:
        """An engine of this assignment; None: the FP32 one. Built once for each name."""
        folder = self.scratch / name
        if (folder / "engine.json").is_file():
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        if assignment is None:
            return build_timed(self.onnx, self.engine.model_copy(update={"precision": "fp32"}), folder)
        info = self._converted(assignment, joins, folder / "model.onnx")
        backend(self.engine.runtime).build(folder / "model.onnx", self.engine, folder, info)
        return folder

    def timed(self, folders: Mapping[str, Path], how: Clock) -> dict[str, Samples]:
        """Milliseconds (rounds, runs) of these engines, interleaved."""
        with ExitStack() as stack:
            return side_by_side({name: stack.enter_context(load_engine(folder, how.threads))
                                 for name, folder in folders.items()}, how)

    def timed_beside(self, anchor: Mapping[str, str], others: Mapping[str, Mapping[str, str]], how: Clock
                     ) -> Iterator[tuple[str, float]]:
        """(name, ms that it takes more than `anchor`) of each assignment: the median over rounds; some at a time."""
        import numpy as np

        first, names = self.engine_folder("anchor", anchor), list(others)
        for start in range(0, len(names), TOGETHER):
            some = {name: self.engine_folder(name, others[name]) for name in names[start : start + TOGETHER]}
            found = self.timed({"anchor": first, **some}, how)
            of_anchor = np.median(found["anchor"], axis=1)
            for name in some:
                yield name, float(np.median(np.median(found[name], axis=1) - of_anchor))
                shutil.rmtree(some[name])

    def clear(self) -> None:
        """Remove everything but results."""
        for folder in (self.scratch, self.images):
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def _int4(self) -> Any:
        return self.job.recipe.quantize.int4

    def _converted(self, assignment: Mapping[str, str], joins: bool, path: Path) -> dict[str, Any]:
        import numpy as np

        from toolchain.graph.convert import convert

        path.parent.mkdir(parents=True, exist_ok=True)
        return convert(self.onnx, path, "mixed", self.rules, self.ranges, int8=self.job.recipe.quantize.int8,
                       int4=self._int4, assignment=assignment, joins=joins,
                       probe=np.load(self.job.data.folder / "probe.npy", allow_pickle=False))

    def _kl(self, path: Path) -> float:
        from toolchain.graph.rules import RULES
        from toolchain.measure.fidelity import mean_kl

        found = self._answers(path, RULES[self.rules].half == "storage")
        return mean_kl(self._float_logits, found)

    @cached_property
    def _float_logits(self) -> np.ndarray:
        return self._answers(self.onnx, True)

    def _answers(self, path: Path, optimize: bool) -> np.ndarray:
        """Logits of the images that the scan drew; a file that computes in half is run node by node."""
        import numpy as np

        from toolchain.graph.compare import run
        from toolchain.sensitivity.images import Images, draw_images

        self.images.mkdir(exist_ok=True)
        scan = getattr(self.job.recipe.quantize.mixed, "scan", None)
        draw_images(self.job.dataset(), scan.images if scan else None, self.job.recipe.seed, self.images)
        return np.concatenate([run(path, batch, optimize) for batch in Images(self.images).batches()])


def spread_evenly(own: Mapping[str, float], whole: float) -> dict[str, float]:
    """Each layer's own difference in latency, scaled so that together they make the `whole` network's.

    Where the two disagree in sign, or by more than four times, they stay as they are: noise is no scale.
    """
    total = sum(own.values())
    factor = whole / total if total else 1.0
    return {name: value * (factor if 0.25 <= factor <= 4 else 1.0) for name, value in own.items()}


def without(names: Sequence[str], name: str, precision: str, anchor: Mapping[str, str]) -> dict[str, str]:
    """The anchor's assignment with one layer at another precision."""
    return {each: precision if each == name else anchor[each] for each in names}
