"""Adapter to NVIDIA ModelOpt's fake quantization: the only file that knows its API.

ModelOpt takes seconds to import and speaks on both output streams, so it is imported inside and silenced here.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from toolchain.errors import MissingPackage

WEIGHT = {"num_bits": 8, "axis": 0, "narrow_range": True}  # per output channel, codes -127..127
INPUT = {"num_bits": 8, "axis": None, "pass_through_bwd": False}  # per tensor; no gradient where clipped


def fake_quantize(model: nn.Module, input_amax: Mapping[str, float]) -> nn.Module:
    """Put INT8 fake quantization on the input and weight of the named Conv2d and Linear layers of `model`, in place.

    input_amax: layer name -> the largest input magnitude kept, fixed from then on. A weight's range is its channel's
    max |w| at every forward, so it follows the training. Nothing else is quantized. Raises MissingPackage.
    """
    quantization = _modelopt()
    entries: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    for name in input_amax:
        entries.append({"quantizer_name": f"{name}.weight_quantizer", "cfg": WEIGHT})
        entries.append({"quantizer_name": f"{name}.input_quantizer", "cfg": INPUT})
    with _silence():
        quantized = quantization.quantize(model, {"quant_cfg": entries, "algorithm": None})
    for name, amax in input_amax.items():
        layer = quantized.get_submodule(name)
        if isinstance(getattr(layer, "input_quantizer", None), quantization.nn.TensorQuantizer):
            layer.input_quantizer.amax = amax
    return quantized


def quantized_layers(model: nn.Module) -> set[str]:
    """Names of the layers whose input and weight are fake-quantized right now."""
    quantizer = _modelopt().nn.TensorQuantizer

    def active(layer: nn.Module, name: str) -> bool:
        found = getattr(layer, name, None)
        return isinstance(found, quantizer) and found.is_enabled and found._if_quant and found.num_bits == 8

    return {name for name, layer in model.named_modules()
            if active(layer, "input_quantizer") and active(layer, "weight_quantizer")}


def _modelopt() -> Any:
    try:
        with _silence():
            import modelopt.torch.quantization as quantization
    except ImportError as error:
        raise MissingPackage(f"quantize.provider 'modelopt' needs the package 'nvidia-modelopt' ({error}): "
                             "pip install nvidia-modelopt, or use quantize: ptq") from error
    return quantization


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Drop its prints, its warnings, and torch's complaint that there is no CUDA toolkit to compile kernels with."""
    noisy = logging.getLogger("torch.utils.cpp_extension")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        noisy.setLevel(level)
