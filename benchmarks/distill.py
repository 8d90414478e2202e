"""What distillation costs per step: each method against the floor of a student step plus a teacher's forward pass.

    python benchmarks/distill.py [--batch 64] [--rounds 15] [--student vgg11_bn:0.5] [--teacher vgg16_bn:0.5]

Interleaved in one run; ratios of medians. `recorded` is soft targets on a fixed view after the first epoch, when the
teacher's outputs are read back from disk.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from toolchain.data import load_dataset
from toolchain.data.dataset import Dataset
from toolchain.data.loader import Batch, train_batches
from toolchain.distill import DISTILL, distillation_loss
from toolchain.distill.objective import Setting
from toolchain.models import create_model
from toolchain.optimizer import autocast_options, make_optimizer
from toolchain.recipe.load import load_recipe
from toolchain.recipe.schema import Augment, Sgd, TorchModel, Train
from toolchain.train import Loss, Progress, label_loss

RECIPES = Path(__file__).parents[1] / "recipes" / "distill" / "digits"
HALF_WAY = Progress(5, 10)


@dataclass(frozen=True)
class Lane:
    """One thing to time: a training step of `model` with `loss`, and what runs before it."""

    model: nn.Module
    loss: Loss
    before: Callable[[Batch], object]

    def step(self, batch: Batch, optimizer: torch.optim.Optimizer) -> float:
        """Seconds of one step."""
        start = time.perf_counter()
        self.before(batch)
        with torch.autocast("cpu", **autocast_options("auto", torch.device("cpu"))):
            value = self.loss(self.model, batch, HALF_WAY).loss
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        optimizer.step()
        return time.perf_counter() - start


def network(spec: str, classes: int) -> nn.Module:
    """"vgg11_bn:0.5" -> that architecture at half width."""
    arch, _, width = spec.partition(":")
    model = create_model(TorchModel(arch=arch, width=float(width or 1)), classes)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def lanes(data: Dataset, student: str, teacher: str, folder: Path) -> dict[str, Lane]:
    """The floors and every method, each with a student of its own."""
    train, classes = Train(), len(data.classes)
    taught_by = network(teacher, classes).eval()

    def look(batch: Batch) -> None:
        with torch.no_grad(), torch.autocast("cpu", **autocast_options("auto", torch.device("cpu"))):
            taught_by(batch.images)

    def twins(batch: Batch) -> None:
        with torch.autocast("cpu", **autocast_options("auto", torch.device("cpu"))):
            label_loss(train)(peer, batch, HALF_WAY).loss.backward()

    peer = network(student, classes)
    found = {"floor": Lane(network(student, classes), label_loss(train), look),
             "floor, two students": Lane(network(student, classes), label_loss(train), twins)}
    for name in (*DISTILL, "recorded"):
        cfg = load_recipe(RECIPES / f"{'soft_targets' if name == 'recorded' else name}.yaml").distill
        assert cfg is not None
        own = network(student, classes)
        setting = Setting(own, None if name == "mutual" else network(teacher, classes), data, train,
                          lambda number: network(student, classes), folder if name == "recorded" else None)
        found[name] = Lane(own, distillation_loss(cfg, setting), lambda batch: None)
    return found


def main() -> None:
    """Print one line per method."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--student", default="vgg11_bn:0.5")
    parser.add_argument("--teacher", default="vgg16_bn:0.5")
    asked = parser.parse_args()
    recipe = load_recipe(RECIPES / "teacher.yaml")
    data = load_dataset(recipe.data.model_copy(update={"augment": Augment(crop_padding=0, flip=False)}), [])
    batch = next(iter(train_batches(data.train, data.preprocess, data.augment, asked.batch, 0, 0)))
    batch = batch._replace(images=batch.images.to(memory_format=torch.channels_last))
    with tempfile.TemporaryDirectory() as folder:
        timed = lanes(data, asked.student, asked.teacher, Path(folder))
        optimizers = {name: make_optimizer(nn.ModuleList([lane.model, *([lane.loss] if isinstance(lane.loss, nn.Module)
                                                                        else [])]), Sgd(method="sgd", lr=1e-4))
                      for name, lane in timed.items()}
        seconds: dict[str, list[float]] = {name: [] for name in timed}
        for round_ in range(asked.rounds + 2):
            for name, lane in timed.items():
                spent = lane.step(batch, optimizers[name])
                if round_ >= 2:  # the first ones allocate, and record the teacher's outputs
                    seconds[name].append(spent)
    print(f"student {asked.student}, teacher {asked.teacher}, batch {asked.batch}, {asked.rounds} rounds")
    for name in timed:
        floor = seconds["floor, two students" if name == "mutual" else "floor"]
        ratios = sorted(a / b for a, b in zip(seconds[name], floor, strict=True))
        print(f"{name:<22} {1e3 * statistics.median(seconds[name]):8.1f} ms   {statistics.median(ratios):.2f} x its "
              f"floor   (quartiles {ratios[len(ratios) // 4]:.2f}-{ratios[3 * len(ratios) // 4]:.2f})")


if __name__ == "__main__":
    main()
