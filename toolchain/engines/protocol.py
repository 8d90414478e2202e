"""What every runtime offers: the contract between engines and whatever builds, measures or ships them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]  # (N, C, H, W), normalized
Logits = NDArray[np.float32]  # (N, K)


class Loaded(Protocol):
    """An engine that is open and ready to run."""

    input_shape: tuple[int, ...]  # -1 where dynamic
    batches: tuple[int, int | None]  # smallest and largest batch one run takes; None: no upper end

    def infer(self, images: Images) -> Logits:
        """Logits (N, K) of any number of images: split and padded to the batches the engine takes."""

    def time_ms(self, images: Images, runs: int) -> NDArray[np.float64]:
        """(runs,) milliseconds of single runs on one batch: wall clock on a CPU, CUDA events around each run on a GPU.

        Raises EngineError when the batch is outside `batches`.
        """

    def transfer_ms(self, images: Images, runs: int) -> NDArray[np.float64] | None:
        """(runs, 2) milliseconds of copying the batch to the GPU and its logits back; None where that is not known."""

    def device_bytes(self) -> int | None:
        """GPU memory taken since the engine was opened, in bytes; None on a CPU."""


class Backend(Protocol):
    """A runtime's module. `cfg` is the recipe's engine section (or an EngineRecord where only `target` is read)."""

    PACKAGES: tuple[str, ...]  # distributions whose version decides what is built

    def missing(self) -> str | None:
        """Why this runtime cannot build here, with the install line; None when it can. Imports nothing heavy."""

    def not_runnable(self, cfg: Any) -> str | None:
        """Why an engine for this target cannot run here ("no GPU"); None when it can."""

    def refuse(self, cfg: Any) -> None:
        """Raise EngineError or MissingPackage, before anything is built, when this engine cannot be had here."""

    def targets(self, cfg: Any) -> Any:
        """`cfg` with its target written out."""

    def rules(self, cfg: Any) -> str:
        """Name of the graph rules (toolchain.graph.rules.RULES) that make this engine's ONNX file."""

    def default_engines(self) -> list[dict[str, Any]]:
        """Engine sections that a recipe without `engines` gets."""

    def build(self, onnx_path: Path, cfg: Any, folder: Path, info: dict[str, Any]) -> Path:
        """Write the engine file and engine.json into `folder`; returns the engine file.

        info: what the graph side knows about the ONNX file (`weight_bytes`). Raises EngineError, MissingPackage.
        """

    def load(self, folder: Path, threads: int | None = None) -> AbstractContextManager[Loaded]:
        """Open an engine after checking its SHA-256. Raises DigestMismatch, EngineError, MissingPackage."""
