"""tensorrt 10.x, tensorrt 11.x and tensorrt_rtx behind one adapter: which package, and what its API offers.

Only the strongly typed path is used, which all three share, so precision lives in the ONNX file and never in flags.
What differs is found by looking at the module, not at version numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from toolchain.errors import MissingPackage

INSTALL = {
    "tensorrt_rtx": "pip install tensorrt-rtx",
    "tensorrt": "pip install -e '.[tensorrt]' (from NVIDIA's own package index; on a Jetson it comes with JetPack)",
}
RED_HERRINGS = ("cudaError 35", "CUDA initialization failure with error: 35")  # said of every failure without a driver
UNSIGNED = "Defaulting to INT8"  # of uint8 Q/DQ, and only a warning: the build would succeed and 128..255 saturate
SHIFTED = "Non-zero zero point is not supported"
# "(Sparsity) Found 3 layer(s) eligible to use sparse tactics: …", "(Sparsity) Chose 2 layer(s) using sparse tactics: …"
SPARSITY = re.compile(r"\(Sparsity\) (Found|Chose) (\d+) layer\(s\)")


@dataclass(frozen=True)
class Package:
    """One importable TensorRT. has_cc_api: builds ahead of time for chosen SMs. has_timing_cache: kernel timings are
    kept between builds (RTX has the calls, but they do nothing)."""

    trt: Any
    has_cc_api: bool
    has_timing_cache: bool


def import_package(name: str) -> Package:
    """Import `tensorrt` or `tensorrt_rtx`. Raises MissingPackage with the install line."""
    try:
        trt = import_module(name)
        has_cc_api = hasattr(trt, "ComputeCapability")
        return Package(trt, has_cc_api, hasattr(trt.IBuilderConfig, "create_timing_cache") and not has_cc_api)
    except (ImportError, AttributeError, OSError) as error:  # a placeholder package, or libraries that do not load
        raise MissingPackage(f"runtime '{name}' cannot be imported ({error}): {INSTALL[name]}") from None


def make_logger(trt: Any) -> Any:
    """A logger that prints nothing and keeps what went wrong in `.errors` (lines) and `.warnings`.

    `.sparse`: {"Found": layers that could run with sparse tactics, "Chose": that do}, as far as it is told.
    """

    class ListLogger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []
            self.sparse: dict[str, int] = {}

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                if not any(herring in message for herring in RED_HERRINGS):
                    self.errors.append(message)
            elif severity == trt.ILogger.WARNING:
                self.warnings.append(message)
            elif told := SPARSITY.search(message):
                self.sparse[told[1]] = int(told[2])

    return ListLogger()
