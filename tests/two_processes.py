"""Run by `accelerate launch` in test_train.py: each rank trains, then writes what it ended with."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch
from torch import nn
from train_data import small_net, squares

from toolchain import checkpoint, train
from toolchain.recipe.schema import Train


class Regressor(nn.Module):
    """A loss with weights and BatchNorm statistics of its own, as a method of distillation has."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))

    def forward(self, model, batch, progress):
        logits = self.layers(model(batch.images).float())
        return train.Step(nn.functional.cross_entropy(logits, batch.labels), logits, {"epoch": progress.epoch})


def digest(*modules: nn.Module) -> str:
    """SHA-256 of all their weights and buffers."""
    found = hashlib.sha256()
    for module in modules:
        for value in module.state_dict().values():
            found.update(value.contiguous().numpy().tobytes())
    return found.hexdigest()


def main(folder: Path) -> None:
    """Two epochs; the indices of the first one, the digest of the final weights and whether this rank wrote."""
    indices: list[int] = []
    wrote: list[str] = []
    plain, write = train.label_loss(Train()), checkpoint.write_bytes

    def loss(model, batch, progress):
        if len(indices) < 48:
            indices.extend(batch.indices.tolist())
        return plain(model, batch, progress)

    def counted(path: Path, content: bytes) -> None:
        wrote.append(path.name)
        write(path, content)

    checkpoint.write_bytes = counted
    torch.manual_seed(0)
    model = small_net()
    history = train.fit(model, squares(), Train(epochs=2, batch_size=8), folder=folder, seed=0, loss=loss)
    torch.manual_seed(1)
    student, own = small_net(), Regressor()
    train.fit(student, squares(), Train(epochs=2, batch_size=8), folder=folder / "own", seed=0, loss=own, title="taught")
    for epoch in history:
        epoch.pop("seconds")
    rank = torch.distributed.get_rank()
    result = {"weights": digest(model), "taught": digest(student, own), "history": history, "indices": indices, "wrote": bool(wrote)}
    (folder / f"rank{rank}.json").write_text(json.dumps(result))
    torch.distributed.barrier()  # none leaves while another is still talking to it
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
