"""Checkpoints of a training run: tensors as safetensors, everything else as JSON, no pickle.

A folder holds the last epoch and the best one. `checkpoint.json` names both files with their SHA-256 and is replaced
atomically after the tensors are written, so a run killed at any moment leaves the previous checkpoint whole.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import Optimizer

from toolchain.console import log
from toolchain.errors import DigestMismatch, TrainError, WorkDirError
from toolchain.files import write_bytes

RECORD = "checkpoint.json"


def save_checkpoint(
    folder: Path, identity: str, model: nn.Module, optimizer: Optimizer, history: list[dict[str, Any]]
) -> None:
    """Write the state after the last epoch of `history`; keep it and the best epoch's, remove the others.

    identity: what the run depends on (see `run_identity`). history: one dict per epoch with at least `val_top1`.
    Raises WorkDirError when the folder cannot be written (permission, full disk).
    """
    epoch = len(history)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    tensors |= {name: value.detach().cpu().contiguous() for name, value in _optimizer_tensors(model, optimizer)}
    content = save(tensors)
    file = f"epoch_{epoch:04d}.safetensors"
    files = {file: hashlib.sha256(content).hexdigest()}
    best = best_epoch(history)
    best_file = f"epoch_{best:04d}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if best != epoch:
            files[best_file] = json.loads((folder / RECORD).read_text())["files"][best_file]
        write_bytes(folder / file, content)
        record = {"identity": identity, "epoch": epoch, "best_epoch": best, "files": files, "history": history}
        write_bytes(folder / RECORD, json.dumps({**record, "sha256": _digest(record)}, indent=1).encode())
        for old in folder.glob("epoch_*"):
            if old.name not in files:
                old.unlink()
    except OSError as error:
        raise WorkDirError(f"{folder}: the checkpoint of epoch {epoch} cannot be written ({error.strerror}); "
                           "free some space or choose another --out, then run the same command to go on") from error


def read_history(folder: Path, identity: str) -> list[dict[str, Any]] | None:
    """The epochs done by an interrupted run of the same identity; None where there is none.

    Raises DigestMismatch when checkpoint.json is damaged or was edited.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    record = _read_record(path)
    if record["identity"] != identity:
        log(f"  {folder}: holds epochs of another run (other data, settings or starting weights); training starts anew")
        return None
    return record["history"]


def restore(folder: Path, model: nn.Module, optimizer: Optimizer | None = None) -> None:
    """Load the last epoch into `model` and `optimizer`, or the best epoch into `model` when there is no optimizer.

    Tensors are copied into the existing ones, so device and memory format stay. Raises DigestMismatch for a file
    that is not the one recorded, TrainError for one that does not fit the model.
    """
    record = _read_record(folder / RECORD)
    file = folder / f"epoch_{record['epoch' if optimizer else 'best_epoch']:04d}.safetensors"
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content).hexdigest() != record["files"].get(file.name):
        raise DigestMismatch(f"{file}: SHA-256 differs from the one in {RECORD}, so it is not the file that was "
                             f"written; remove the folder {folder} to train this stage again from its start")
    tensors = load(content)
    weights = {name: value for name, value in tensors.items() if not name.startswith("optimizer.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise TrainError(f"{file}: does not fit the model ({reason}); remove {folder} to train again") from error
    if optimizer:
        _restore_optimizer(model, optimizer, tensors)


def best_epoch(history: list[dict[str, Any]]) -> int:
    """Number (from 1) of the first epoch with the highest val top-1."""
    return 1 + max(range(len(history)), key=lambda index: (history[index]["val_top1"], -index))


def run_identity(model: nn.Module, facts: dict[str, Any]) -> str:
    """SHA-256 of the starting weights and of `facts` (JSON-able): a checkpoint of another identity is not resumed."""
    return hashlib.sha256((json.dumps(facts, sort_keys=True) + state_sha256(model)).encode()).hexdigest()


def state_sha256(model: nn.Module) -> str:
    """SHA-256 over every parameter and buffer of `model`, with its name, shape and dtype."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> list[tuple[str, Tensor]]:
    """Per-parameter state under the parameter's name: `optimizer.<parameter>.<momentum_buffer|exp_avg|step|...>`."""
    return [(f"optimizer.{name}.{key}", value) for name, parameter in model.named_parameters()
            for key, value in optimizer.state.get(parameter, {}).items() if isinstance(value, Tensor)]


def _restore_optimizer(model: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        if not key.startswith("optimizer."):
            continue
        name, kind = key[len("optimizer."):].rsplit(".", 1)
        parameter = parameters[name]
        if value.shape == parameter.shape:
            # the parameter's memory format: another element order may round differently in vectorised kernels
            value = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
        optimizer.state[parameter][kind] = value


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
        sound = record.pop("sha256") == _digest(record)
    except (ValueError, KeyError, AttributeError, TypeError):
        sound = False
    if not sound:
        raise DigestMismatch(f"{path}: damaged or edited (its own SHA-256 does not hold); "
                             f"remove the folder {path.parent} to train this stage again from its start")
    return record


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
