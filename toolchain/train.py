"""The only training loop: training, fine-tuning, distillation and QAT differ in the model and the loss they bring.

accelerate provides the device and DDP (`accelerate launch`); the order of images comes from data/loader.py and
depends on (seed, epoch) alone, the learning rate on the step number alone, and torch is reseeded each epoch. So a run
that is resumed from a checkpoint ends with the weights of an undisturbed one, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from toolchain import console
from toolchain.checkpoint import best_epoch, read_history, restore, run_identity, save_checkpoint
from toolchain.data.loader import Batch, TrainBatches, eval_batches, train_batches
from toolchain.errors import TrainError
from toolchain.optimizer import autocast_options, learning_rate_factor, make_optimizer
from toolchain.recipe.schema import Train

if TYPE_CHECKING:
    from toolchain.data import Dataset, Split
    from toolchain.data.preprocess import Preprocess


class Progress(NamedTuple):
    """Where a training run stands: `epoch` counts from 0."""

    epoch: int
    epochs: int


class Step(NamedTuple):
    """What a loss says of one batch.

    loss: () to minimise. logits: (N, K), at least float32. parts: scalars whose mean over the epoch is kept in the
    history; one epoch always has the same ones.
    """

    loss: Tensor
    logits: Tensor
    parts: Mapping[str, Tensor | float] = {}


# One that is an nn.Module is trained beside the model: its parameters are in the optimizer, its state in checkpoints.
Loss = Callable[[nn.Module, Batch, Progress], Step]

LOOK_EVERY = 10  # steps between readings of the loss: each reading waits for the device


def fit(
    model: nn.Module, dataset: Dataset, cfg: Train, *, folder: Path, seed: int, loss: Loss | None = None,
    title: str = "train",
) -> list[dict[str, Any]]:
    """Train `model` in place on `dataset.train`, judging it on `dataset.val` after each epoch.

    Writes a checkpoint per epoch into folder/checkpoints (rank 0 only) and goes on from one left by an interrupted run
    of the same model, data, cfg and seed. `cfg.batch_size` counts the images per process. loss: `label_loss` if None;
    one that is an nn.Module is trained too, and left behind at the end.
    Ends with the best epoch's weights when `cfg.early_stopping` is set, else with the last epoch's, on the CPU.
    Returns: per epoch `epoch` (from 1), `lr` (of its last step), `train_loss`, `train_top1`, `val_loss`, `val_top1`
    (percent), the loss's `parts`, and `seconds`. Raises TrainError (loss not finite, class counts that differ),
    DigestMismatch (a checkpoint was changed), WorkDirError (it cannot be written).
    """
    accelerator = Accelerator(mixed_precision="no")  # ours is torch.autocast below: accelerate's would patch forward
    if not accelerator.is_main_process:
        console.set_quiet(True)
    loss = loss or label_loss(cfg)
    checkpoints = folder / "checkpoints"
    trained = nn.ModuleDict({"model": model, "loss": loss} if isinstance(loss, nn.Module) else {"model": model})
    identity = run_identity(trained, _facts(dataset, cfg, seed, accelerator.num_processes))
    device = accelerator.device
    _to(trained, device, cfg.channels_last)
    check_classes(model, dataset)
    optimizer = make_optimizer(trained, cfg.optimizer)
    history = read_history(checkpoints, identity) or []
    if history:
        restore(checkpoints, trained, optimizer)
        console.log(f"  {title}: resumed after epoch {len(history)} of {cfg.epochs}")
    replica = accelerator.prepare_model(model) if cfg.epochs else model
    autocast = torch.autocast(device.type, **autocast_options(cfg.mixed_precision, device))
    scaler = torch.amp.GradScaler(device.type, enabled=cfg.mixed_precision == "fp16" and device.type == "cuda")

    def batches(epoch: int) -> TrainBatches:
        return train_batches(dataset.train, dataset.preprocess, dataset.augment, cfg.batch_size, seed, epoch,
                             rank=accelerator.process_index, world_size=accelerator.num_processes)

    steps = len(batches(0))
    with console.bar(title, total=steps * (cfg.epochs - len(history))) as bar, torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True):
        for epoch in range(len(history), cfg.epochs):
            if _stopped(history, cfg.early_stopping):
                break
            start = time.perf_counter()
            torch.manual_seed((seed * 1_000_003 + epoch) * 1024 + accelerator.process_index)  # dropout
            trained.train()
            progress = Progress(epoch, cfg.epochs)
            totals = torch.zeros(3, dtype=torch.float64, device=device)  # loss x images, correct, images
            parts: dict[str, Tensor] = {}  # x images
            pending: list[Tensor] = []
            for step, batch in enumerate(batches(epoch)):
                factor = learning_rate_factor(cfg.schedule, epoch * steps + step, cfg.epochs * steps)
                lr = cfg.optimizer.lr * factor
                for group in optimizer.param_groups:
                    group["lr"] = lr
                batch = _on(batch, device, cfg.channels_last)
                with autocast:
                    value, logits, step_says = loss(replica, batch, progress)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(value).backward()
                _share_gradients(trained, accelerator)
                if cfg.clip_norm is not None:
                    scaler.unscale_(optimizer)
                    for clipped in (model, *trained["loss"].children()) if "loss" in trained else (model,):
                        nn.utils.clip_grad_norm_(clipped.parameters(), cfg.clip_norm)
                scaler.step(optimizer)
                scaler.update()
                images = len(batch.labels)
                totals += torch.stack([value.detach().double() * images, _correct(logits, batch.labels),
                                       totals.new_tensor(images)])
                for name, said in step_says.items():
                    part = images * torch.as_tensor(said, dtype=torch.float64, device=device).detach()
                    parts[name] = parts.get(name, torch.zeros_like(part)) + part
                pending.append(value.detach())
                if len(pending) == LOOK_EVERY or step + 1 == steps:
                    seen = torch.stack(pending).tolist()
                    _check_finite(seen, title, epoch, step, lr, cfg)
                    bar.advance(len(pending), epoch=f"{epoch + 1}/{cfg.epochs}", loss=seen[-1], lr=lr)
                    pending.clear()
            _share_buffers(trained, accelerator)
            total = accelerator.reduce(torch.stack([*totals, *parts.values()]), "sum").tolist()
            val_loss, val_top1 = _judge(model, dataset.val, dataset.preprocess, cfg, device, autocast, accelerator)
            _check_finite([val_loss], f"{title}, val", epoch, steps - 1, lr, cfg)
            history.append({"epoch": epoch + 1, "lr": lr, "train_loss": total[0] / total[2],
                            "train_top1": 100 * total[1] / total[2], "val_loss": val_loss, "val_top1": val_top1,
                            "parts": {name: part / total[2] for name, part in zip(parts, total[3:], strict=True)},
                            "seconds": round(time.perf_counter() - start, 3)})
            if accelerator.is_main_process:
                save_checkpoint(checkpoints, identity, trained, optimizer, history)
            accelerator.wait_for_everyone()
            console.log(f"  {title}: epoch {epoch + 1}/{cfg.epochs}  loss {total[0] / total[2]:.4f}  "
                        f"val top-1 {val_top1:.2f} %  {history[-1]['seconds']:.1f} s")
    if cfg.early_stopping and history and best_epoch(history) != len(history):
        restore(checkpoints, trained)
    trained.zero_grad(set_to_none=True)
    _to(trained, torch.device("cpu"), channels_last=False)
    trained.eval()
    return history


def evaluate(model: nn.Module, split: Split, preprocess: Preprocess, batch_size: int) -> float:
    """Top-1 of `model` in eval mode on `split`, in percent, on the device of its weights; its mode is kept."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    correct = 0.0
    with torch.inference_mode():
        for batch in eval_batches(split, preprocess, batch_size):
            correct += _correct(model(batch.images.to(device)), batch.labels.to(device)).item()
    model.train(was_training)
    return 100 * correct / len(split)


def label_loss(cfg: Train) -> Loss:
    """Mean cross-entropy with the labels, smoothed as `cfg` says."""
    def loss(model: nn.Module, batch: Batch, progress: Progress) -> Step:
        logits = model(batch.images).float()
        return Step(cross_entropy(logits, batch.labels, cfg), logits)

    return loss


def cross_entropy(logits: Tensor, labels: Tensor, cfg: Train) -> Tensor:
    """Mean cross-entropy in nats; a share of the target is spread over the classes (Szegedy et al. 2016).

    logits: (N, K). labels: int64 (N,). cfg.label_smoothing: the share; over all K classes (uniform), or over the K - 1
    wrong ones (off_target), which equals a uniform share that is K / (K - 1) times as large. Returns ().
    """
    share, classes = cfg.label_smoothing, logits.shape[1]
    if cfg.label_smoothing_mode == "off_target" and share and classes > 1:
        others = logits.log_softmax(dim=1).sum(dim=1).mean() + F.cross_entropy(logits, labels)  # all, less the label's
        return (1 - share) * F.cross_entropy(logits, labels) - share / (classes - 1) * others
    return F.cross_entropy(logits, labels, label_smoothing=share)


def check_classes(model: nn.Module, dataset: Dataset) -> None:
    """Refuse a model whose logits are not (N, number of classes of the data). Raises TrainError."""
    size = dataset.preprocess.image_size
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        shape = tuple(model(torch.zeros(1, 3, size, size, device=next(model.parameters()).device)).shape)
    model.train(was_training)
    if shape != (1, len(dataset.classes)):
        raise TrainError(f"model: its output for one image has shape {shape}, but dataset {dataset.name} has "
                         f"{len(dataset.classes)} classes; expected (1, {len(dataset.classes)})")


def _judge(
    model: nn.Module, split: Split, preprocess: Preprocess, cfg: Train, device: torch.device, autocast: torch.autocast,
    accelerator: Accelerator,
) -> tuple[float, float]:
    """Mean cross-entropy and top-1 (percent) on the whole split; each rank takes every world_size-th batch."""
    model.eval()
    totals = torch.zeros(3, dtype=torch.float64, device=device)
    with torch.inference_mode():
        for index, batch in enumerate(eval_batches(split, preprocess, cfg.batch_size)):
            if index % accelerator.num_processes != accelerator.process_index:
                continue
            batch = _on(batch, device, cfg.channels_last)
            with autocast:
                logits = model(batch.images).float()
            loss = F.cross_entropy(logits, batch.labels, reduction="sum").double()
            totals += torch.stack([loss, _correct(logits, batch.labels), totals.new_tensor(len(batch.labels))])
    loss_sum, correct, images = accelerator.reduce(totals, "sum").tolist()
    return loss_sum / images, 100 * correct / images


def _check_finite(losses: list[float], title: str, epoch: int, last_step: int, lr: float, cfg: Train) -> None:
    for index, value in enumerate(losses):
        if not math.isfinite(value):
            step = last_step - len(losses) + 1 + index
            raise TrainError(
                f"{title}: the loss is {value} at epoch {epoch + 1}, step {step + 1} (learning rate {lr:.3g}); try a "
                f"smaller optimizer.lr (now {cfg.optimizer.lr:g})"
                + (", a clip_norm" if cfg.clip_norm is None else f", a smaller clip_norm (now {cfg.clip_norm:g})")
                + (" or mixed_precision: no" if cfg.mixed_precision != "no" else ""))


def _stopped(history: list[dict[str, Any]], patience: int | None) -> bool:
    """Early stopping as a function of the history alone, so that resuming needs no further state."""
    return patience is not None and bool(history) and len(history) - best_epoch(history) >= patience


def _share_gradients(trained: nn.ModuleDict, accelerator: Accelerator) -> None:
    """Average the gradients of a loss's own parameters over the ranks; DDP does it for the model's."""
    if accelerator.num_processes > 1 and "loss" in trained:
        for parameter in trained["loss"].parameters():
            if parameter.grad is not None:
                parameter.grad = accelerator.reduce(parameter.grad, "mean")


def _share_buffers(model: nn.Module, accelerator: Accelerator) -> None:
    """Give every rank the BatchNorm statistics of rank 0, whose model is the one that is saved."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def _facts(dataset: Dataset, cfg: Train, seed: int, world_size: int) -> dict[str, Any]:
    return {"cfg": cfg.model_dump(mode="json"), "seed": seed, "split": dataset.split_sha256, "world_size": world_size,
            "preprocess": dataset.preprocess.to_json(), "augment": dataset.augment.model_dump()}


def _to(model: nn.Module, device: torch.device, channels_last: bool) -> None:
    model.to(device)
    model.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _on(batch: Batch, device: torch.device, channels_last: bool) -> Batch:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = batch.images.to(device, non_blocking=True, memory_format=layout)
    return Batch(images, batch.labels.to(device, non_blocking=True), batch.indices)


def _correct(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(dim=1) == labels).sum().double()
