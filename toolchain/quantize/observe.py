"""A float ONNX network run so that every tensor which a target may quantize is counted in a histogram.

All tensors are written into the same buffers run after run, so memory does not grow with the number of images. Small
networks take several images per run, because a run's time is then mostly that of fetching the weights; an unfinished
group is filled up, so that an image meets the same arithmetic wherever it stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from toolchain.errors import DataError, OnnxError
from toolchain.graph.circles import circles_freed
from toolchain.graph.layers import layer_name, quantizable_tensors
from toolchain.graph.onnx_file import read_onnx
from toolchain.quantize.histogram import Histogram

THREADS = 2
GROUP_VALUES = 2**22  # activations of one run: 16 MB; fewer and larger counts cost less than what a cache gains
LARGEST_GROUP = 16
COUNTED = 2**13  # values of a tensor that go into its histogram, per image; its min and max see all
LARGE_WEIGHT = 1024  # bytes; from here on a weight lies beside the graph, where the runtime maps it without a copy

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Observed:
    """What calibration goes by: histograms by tensor, which tensor is the network's input, how many images it saw."""

    histograms: dict[str, Histogram]
    input: str
    images: int


class Network:
    """A float ONNX file opened with its quantizable tensors as outputs. Raises OnnxError when that cannot be done."""

    def __init__(self, onnx_path: Path) -> None:
        self.path = onnx_path
        with TemporaryDirectory() as folder:
            file = Path(folder) / "network.onnx"
            with circles_freed():  # its weights would be in memory twice from here on
                wanted = self._write(file)
            self.session = _opened(file, onnx_path)
        floats = {given.name for given in self.session.get_outputs() if given.type == "tensor(float)"}
        self.tensors = [name for name in wanted if name == self.input or name in floats]
        self.inner = [name for name in self.tensors if name != self.input]
        self.shape = list(self.session.get_inputs()[0].shape)
        self.fixed_batch = self.shape[0] if isinstance(self.shape[0], int) else None

    def _write(self, file: Path) -> list[str]:
        """The network with its quantizable tensors as outputs, as a file; their names."""
        model = read_onnx(self.path)
        self.input = model.graph.inputs[0].name or ""
        self.producers = {out.name or "": layer_name(node) for node in model.graph for out in node.outputs}
        wanted = quantizable_tensors(model.graph)
        inner = [out for node in model.graph for out in node.outputs if out.name in wanted]
        model.graph.outputs.extend(out for out in inner if out not in model.graph.outputs)
        ir.save(model, file, external_data="weights", size_threshold_bytes=LARGE_WEIGHT)
        return wanted

    def checked(self, images: np.ndarray) -> np.ndarray:
        """`images` (n, 3, S, S) float32 as they are, or DataError saying what is wrong with them."""
        expected = [size if isinstance(size, int) else None for size in self.shape[1:]]
        fits = images.ndim == len(self.shape) and all(
            wanted in (None, size) for wanted, size in zip(expected, images.shape[1:], strict=True))
        if not fits or images.dtype != np.float32:
            sizes = ", ".join("any" if size is None else str(size) for size in expected)
            raise DataError(f"{self.path}: calibration images are {images.dtype} {tuple(images.shape)}; expected "
                            f"float32 (n, {sizes}); set data.image_size to the network's input size")
        return images

    def group(self, image: np.ndarray) -> tuple[int, Shapes]:
        """How many images like `image` (3, S, S) go into one run, and the shapes that its tensors then have.

        One, where a tensor's first axis does not grow with the images: what belongs to which could not be told.
        """
        if self.fixed_batch is not None:
            return 1, self._shapes(image, self.fixed_batch)
        alone = self._shapes(image, 1)
        values = sum(math.prod(shape) for shape in alone.values())
        size = 2 ** int(math.log2(min(LARGEST_GROUP, max(1, GROUP_VALUES // max(values, 1)))))
        together = self._shapes(image, size)
        grows = all(shape and together[name] == (size * shape[0], *shape[1:]) for name, shape in alone.items())
        return (size, together) if grows else (1, alone)

    def _shapes(self, image: np.ndarray, batch: int) -> Shapes:
        """Of every inner tensor in a run of `batch` images; the runtime knows most, the others are looked at."""
        known = {}
        for given in self.session.get_outputs():
            shape = [batch if i == 0 and size == self.shape[0] else size for i, size in enumerate(given.shape)]
            if given.name in self.inner and all(isinstance(size, int) for size in shape):
                known[given.name] = tuple(shape)
        unknown = [name for name in self.inner if name not in known]
        found = self.session.run(unknown, {self.input: np.repeat(image[None], batch, axis=0)}) if unknown else []
        return {**known, **{name: value.shape for name, value in zip(unknown, found, strict=True)}}

    def not_finite(self, name: str, image: np.ndarray, index: int) -> str:
        """What to tell the user when tensor `name` holds NaN or infinity for image number `index`."""
        if not np.isfinite(image).all():
            return f"calibration image {index} holds NaN or infinity after preprocessing; check data.mean and data.std"
        return (f"{self.path}: layer {self.producers.get(name, name)} produces NaN or infinity for calibration image "
                f"{index} (tensor '{name}'); expected finite values; train again with a lower learning rate")


class Run:
    """The buffers of one group of images, and a histogram per tensor; `spread`: fill them, not only min and max."""

    def __init__(self, network: Network, size: int, shapes: Shapes, image: np.ndarray, spread: bool) -> None:
        self.network, self.spread = network, spread
        self.images = np.empty((network.fixed_batch or size, *image.shape), np.float32)
        inner = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
        self.values = {name: self.images if name == network.input else inner[name] for name in network.tensors}
        self.histograms = {name: Histogram() for name in network.tensors}
        self.binding = network.session.io_binding()
        self.binding.bind_ortvalue_input(network.input, ort.OrtValue.ortvalue_from_numpy(self.images))
        for name in network.inner:
            self.binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(inner[name]))

    def count(self, images: list[np.ndarray], first: int, threads: ThreadPoolExecutor) -> None:
        """Run `images` (3, S, S), of which the first has number `first`, and count what came out.

        Raises OnnxError naming the layer whose values are NaN or infinite.
        """
        n = len(images)
        self.images[:n], self.images[n:] = images, images[-1]
        self.network.session.run_with_iobinding(self.binding)
        finite = list(threads.map(lambda name: self._add(name, n), self.values))
        if not all(finite):
            raise OnnxError(self._first_not_finite(n, first))

    def _rows(self, name: str, n: int) -> np.ndarray:
        """A tensor's values of the first `n` images, one row each."""
        values, filled = self.values[name], len(self.images)
        mine = values[: len(values) // filled * n] if values.ndim and len(values) % filled == 0 else values
        return mine.reshape(n, -1)

    def _add(self, name: str, n: int) -> bool:
        rows = self._rows(name, n)
        return self.histograms[name].add(rows, rows[:, :: step(rows.shape[1])] if self.spread else rows[:, :0])

    def _first_not_finite(self, n: int, first: int) -> str:
        bad = ((i, name) for i in range(n) for name in self.values if not np.isfinite(self._rows(name, n)[i]).all())
        i, name = next(bad)
        return self.network.not_finite(name, self.images[i], first + i)


def observe(onnx_path: Path, images: Iterable[np.ndarray], spread: bool, advance: Callable[[int], None]
            ) -> Observed:
    """A histogram per quantizable tensor over all `images` (batches (n, 3, S, S)).

    spread: False leaves min and max only. advance: told how many more images are done. Raises DataError for no images,
    or images of the wrong shape or type, OnnxError naming the first image and layer with NaN or infinity.
    """
    network = Network(onnx_path)
    each = (image for batch in images for image in network.checked(batch))
    image = next(each, None)
    if image is None:
        raise DataError(f"{onnx_path}: no calibration images; expected at least 1")
    network.shape[1:] = image.shape
    size, shapes = network.group(image)
    run = Run(network, size, shapes, image, spread)
    left, first = chain([image], each), 0
    with ThreadPoolExecutor(THREADS) as threads:
        while group := list(islice(left, size)):
            run.count(group, first, threads)
            advance(len(group))
            first += len(group)
    return Observed(run.histograms, network.input, first)


def step(size: int) -> int:
    """Every how manieth of `size` values is counted: 1 for a small tensor, and never in step with rows or channels."""
    found = max(1, -(-size // COUNTED))
    while math.gcd(found, size) > 1:
        found += 1
    return found


def _opened(file: Path, given: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # it would set memory aside for what lies in our buffers
    options.add_session_config_entry("session.force_spinning_stop", "1")  # the threads are wanted for counting
    try:
        return ort.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    except Exception as wrong:  # onnxruntime's exceptions share no base class
        reason = str(wrong).splitlines()[0][:200]
        raise OnnxError(f"{given}: onnxruntime cannot load it for calibration: {reason}") from None
