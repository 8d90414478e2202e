"""A trained teacher as a frozen network, whatever file it came in."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from toolchain.data.preprocess import Preprocess
from toolchain.engines.batching import in_batches
from toolchain.engines.ort_session import create_session, session_options
from toolchain.models.store import load_model

Triple = tuple[float, float, float]
ONNX = "model.onnx"


class OnnxTeacher(nn.Module):
    """An ONNX file as a network: logits only, on ONNX Runtime's CPU provider.

    (N, 3, S, S) float32 -> (N, K) float32, on the device of the images. Raises EngineError.
    """

    logits_only = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._session = create_session(path, "cpu_x86", session_options(None))
        fixed = self._session.get_inputs()[0].shape[0]
        self._batches = (fixed, fixed) if isinstance(fixed, int) else (1, None)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of `images`, without a gradient."""
        name = self._session.get_inputs()[0].name
        found = in_batches(lambda chunk: self._session.run(None, {name: chunk})[0],
                           images.detach().float().cpu().contiguous().numpy(), self._batches)
        return torch.from_numpy(found).to(images.device)


def load_teacher(folder: Path, student: Preprocess, own: tuple[Triple, Triple]) -> nn.Module:
    """The teacher of a finished stage, frozen and in eval mode.

    folder: holds model.onnx, or model.safetensors and architecture.json. student: how the images it will be given are
    normalised. own: (mean, std) per channel that the teacher expects; where they differ, images are normalised anew, so
    that both networks see the same pixels. Raises TrainError, EngineError.
    """
    model = OnnxTeacher(folder / ONNX) if (folder / ONNX).is_file() else load_model(folder)
    if own != (student.mean, student.std):
        # (x - m') / s' with x = y s + m
        (mean, std), (own_mean, own_std) = (map(_channels, pair) for pair in ((student.mean, student.std), own))
        factor, shift = std / own_std, (mean - own_mean) / own_std
        model.register_forward_pre_hook(
            lambda _, inputs: (inputs[0] * factor.to(inputs[0].device) + shift.to(inputs[0].device),))
    return model.eval().requires_grad_(False)


def _channels(values: Triple) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)
