"""The only training loop: training, fine-tuning, distillation and QAT differ in the model and the loss they bring.

accelerate provides the device and DDP (`accelerate launch`); the order of images comes from data/loader.py and
depends on (seed, epoch) alone, the learning rate on the step number alone, and torch is reseeded each epoch. So a run
that is resumed from a checkpoint ends with the weights of an undisturbed one, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from toolchain import console
from toolchain.checkpoint import best_epoch, read_history, restore, run_identity, save_checkpoint
from toolchain.data.loader import Batch, TrainBatches, eval_batches, train_batches
from toolchain.errors import TrainError
from toolchain.recipe.schema import AdamW, Sgd, Train

if TYPE_CHECKING:
    from toolchain.data import Dataset, Split
    from toolchain.data.preprocess import Preprocess

Loss = Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]  # (model, batch) -> scalar loss, logits (N, K)

WARM_UP = 0.3  # share of the steps in which one_cycle's learning rate rises (Smith, Topin 2017, arXiv:1708.07120)
START_FACTOR, END_FACTOR = 1 / 25, 1e-4  # one_cycle's first and last learning rate, relative to `lr`
LOOK_EVERY = 10  # steps between readings of the loss: each reading waits for the device


def fit(
    model: nn.Module, dataset: Dataset, cfg: Train, *, folder: Path, seed: int, loss: Loss | None = None,
    title: str = "train",
) -> list[dict[str, Any]]:
    """Train `model` in place on `dataset.train`, judging it on `dataset.val` after each epoch.

    Writes a checkpoint per epoch into folder/checkpoints (rank 0 only) and goes on from one left by an interrupted run
    of the same model, data, cfg and seed. `cfg.batch_size` counts the images per process. loss: `label_loss` if None.
    Ends with the best epoch's weights when `cfg.early_stopping` is set, else with the last epoch's, on the CPU.
    Returns: per epoch `epoch` (from 1), `lr` (of its last step), `train_loss`, `train_top1`, `val_loss`, `val_top1`
    (percent) and `seconds`. Raises TrainError (loss not finite, class counts that differ), DigestMismatch
    (a checkpoint was changed), WorkDirError (it cannot be written).
    """
    accelerator = Accelerator(mixed_precision="no")  # ours is torch.autocast below: accelerate's would patch forward
    if not accelerator.is_main_process:
        console.set_quiet(True)
    loss = loss or label_loss(cfg.label_smoothing)
    checkpoints = folder / "checkpoints"
    identity = run_identity(model, _facts(dataset, cfg, seed, accelerator.num_processes))
    device = accelerator.device
    _to(model, device, cfg.channels_last)
    check_classes(model, dataset)
    optimizer = make_optimizer(model, cfg.optimizer)
    history = read_history(checkpoints, identity) or []
    if history:
        restore(checkpoints, model, optimizer)
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
            replica.train()
            totals = torch.zeros(3, dtype=torch.float64, device=device)  # loss x images, correct, images
            pending: list[Tensor] = []
            for step, batch in enumerate(batches(epoch)):
                factor = learning_rate_factor(cfg.schedule, epoch * steps + step, cfg.epochs * steps)
                lr = cfg.optimizer.lr * factor
                for group in optimizer.param_groups:
                    group["lr"] = lr
                batch = _on(batch, device, cfg.channels_last)
                with autocast:
                    value, logits = loss(replica, batch)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(value).backward()
                if cfg.clip_norm is not None:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(model.parameters(), cfg.clip_norm)
                scaler.step(optimizer)
                scaler.update()
                images = len(batch.labels)
                totals += torch.stack([value.detach().double() * images, _correct(logits, batch.labels),
                                       totals.new_tensor(images)])
                pending.append(value.detach())
                if len(pending) == LOOK_EVERY or step + 1 == steps:
                    seen = torch.stack(pending).tolist()
                    _check_finite(seen, title, epoch, step, lr, cfg)
                    bar.advance(len(pending), epoch=f"{epoch + 1}/{cfg.epochs}", loss=seen[-1], lr=lr)
                    pending.clear()
            _share_buffers(model, accelerator)
            total = accelerator.reduce(totals, "sum").tolist()
            val_loss, val_top1 = _judge(model, dataset.val, dataset.preprocess, cfg, device, autocast, accelerator)
            _check_finite([val_loss], f"{title}, val", epoch, steps - 1, lr, cfg)
            history.append({"epoch": epoch + 1, "lr": lr, "train_loss": total[0] / total[2],
                            "train_top1": 100 * total[1] / total[2], "val_loss": val_loss, "val_top1": val_top1,
                            "seconds": round(time.perf_counter() - start, 3)})
            if accelerator.is_main_process:
                save_checkpoint(checkpoints, identity, model, optimizer, history)
            accelerator.wait_for_everyone()
            console.log(f"  {title}: epoch {epoch + 1}/{cfg.epochs}  loss {total[0] / total[2]:.4f}  "
                        f"val top-1 {val_top1:.2f} %  {history[-1]['seconds']:.1f} s")
    if cfg.early_stopping and history and best_epoch(history) != len(history):
        restore(checkpoints, model)
    model.zero_grad(set_to_none=True)
    _to(model, torch.device("cpu"), channels_last=False)
    model.eval()
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


def label_loss(label_smoothing: float = 0.0) -> Loss:
    """Mean cross-entropy with the labels; a share of the target is spread over all classes (Szegedy et al. 2016)."""
    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = model(batch.images).float()
        return F.cross_entropy(logits, batch.labels, label_smoothing=label_smoothing), logits

    return loss


def learning_rate_factor(schedule: str, step: int, steps: int) -> float:
    """Share of `lr` used in `step` (from 0) of `steps`: one_cycle, cosine or constant."""
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return _cosine(1.0, 0.0, step / steps)
    peak = WARM_UP * steps
    if step < peak:
        return _cosine(START_FACTOR, 1.0, step / peak)
    return _cosine(1.0, START_FACTOR * END_FACTOR, (step - peak) / max(1.0, steps - 1 - peak))


def make_optimizer(model: nn.Module, cfg: Sgd | AdamW) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW, over the parameters that want a gradient."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if isinstance(cfg, AdamW):
        return torch.optim.AdamW(parameters, lr=cfg.lr, weight_decay=cfg.weight_decay)
    return torch.optim.SGD(parameters, lr=cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay,
                           nesterov=cfg.momentum > 0)


def autocast_options(mixed_precision: str, device: torch.device) -> dict[str, Any]:
    """torch.autocast's `enabled` and `dtype`; "auto" is bf16 where the hardware multiplies in it, else off."""
    if mixed_precision == "auto":
        native = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else _cpu_has_bf16()
        mixed_precision = "bf16" if native else "no"
    if mixed_precision == "no":
        return {"enabled": False}
    return {"enabled": True, "dtype": torch.float16 if mixed_precision == "fp16" else torch.bfloat16}


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


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _cpu_has_bf16() -> bool:
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
