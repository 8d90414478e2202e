"""All engines of one build, judged together: two .npz files keep every answer and every time, measured.json sums up."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain import console
from toolchain.engines import load_engine
from toolchain.engines.cpu import default_threads
from toolchain.engines.protocol import Images, Loaded
from toolchain.engines.record import EngineRecord, verify
from toolchain.files import write_text
from toolchain.measure.accuracy import Predictions, accuracy, agreement_percent, keyed, predict, top1_change
from toolchain.measure.latency import Samples, speedup
from toolchain.measure.memory import peak_memory_bytes
from toolchain.measure.npz import save_arrays
from toolchain.measure.reference import fp32_reference, on_gpu
from toolchain.measure.storage import deflate_bytes
from toolchain.measure.throughput import fill, sweep
from toolchain.measure.validity import trusted_ms
from toolchain.recipe.schema import Measure
from toolchain.runner.boundaries import outer_ms
from toolchain.runner.conditions import settings
from toolchain.runner.energy import counter, energy
from toolchain.runner.nvml import card
from toolchain.runner.rounds import SETTLE_MS, summary

Batches = Callable[[], Iterator[tuple[Images, NDArray[np.int64]]]]
TRANSFER_RUNS = 20


def measure_engines(
    folders: Mapping[str, Path], reasons: Mapping[str, str | None], batches: Batches, labels: NDArray[np.int64],
    cfg: Measure, folder: Path, seed: int, classes: int | None = None, unpruned: Collection[str] = (),
    normalized: Callable[[], Images] | None = None,
) -> list[dict[str, Any]]:
    """Judge every engine that can run here; write predictions.npz, latency.npz and measured.json into `folder`.

    folders: engine name -> its folder. reasons: why an engine cannot run here (None: it can). batches: a fresh pass
    over the normalized test images (n, C, H, W) float32 with their labels. labels: (N,) int64 of the test split.
    classes: of the dataset, None: not checked beyond the labels. unpruned: names of FP32 engines of the network before
    pruning, which the others are compared with too. normalized: makes one batch (cfg.batch, C, H, W) out of pixels, of
    which the latency from end to end is measured; None: it is not. Returns what measured.json holds, in that order.
    Raises EngineError, DigestMismatch, MissingPackage, DataError.
    """
    files = {name: verify(path) for name, path in folders.items()}
    records = {name: replace(record, name=name) for name, (record, _) in files.items()}
    threads = cfg.threads or default_threads()
    with ExitStack() as stack:
        engines = {name: stack.enter_context(load_engine(path, threads))
                   for name, path in folders.items() if reasons.get(name) is None}
        if engines:
            images = next(iter(batches()))[0]
            predictions, keys = _predictions(engines, batches, labels, classes)
            batch = fill(images, cfg.batch)
            samples, validity = trusted_ms(
                engines, dict.fromkeys(engines, batch), warmup=cfg.warmup, rounds=cfg.rounds, runs=cfg.runs_per_round,
                seed=seed, threads=threads, attempts=cfg.attempts, reference=_first_fp32(records, engines),
                on_gpu={name for name in engines if on_gpu(records[name])})
            extras = {name: _extras(engine, images, cfg, on_gpu(records[name]), normalized)
                      for name, engine in engines.items()}
        else:
            predictions, samples, extras, validity = {}, {}, {}, {}
            keys = np.empty(0, np.uint64)
    for name in extras:  # after the engines are closed: the measuring processes have the machine to themselves
        extras[name] |= _memory(folders[name], cfg.batch, threads)
    _save(folder, predictions, samples, {"labels": labels, "keys": keys})
    pruned, before = ([records[n] for n in engines if (n in unpruned) is which] for which in (False, True))
    measured = []
    for name, record in records.items():
        facts = _facts(record) | {"deflate_bytes": deflate_bytes(files[name][1]), "unpruned": name in unpruned}
        own = [] if name in unpruned else pruned  # an unpruned engine is compared with its like alone
        measured.append(facts | (
            _measured(record, own, before, predictions, samples, labels, cfg, threads, seed) | extras[name]
            | {"validity": validity[name]}
            if name in engines else _not_measured(str(reasons[name]))))
    write_text(folder / "measured.json", json.dumps(measured, indent=1) + "\n")
    return measured


def _predictions(
    engines: Mapping[str, Loaded], batches: Batches, labels: NDArray[np.int64], classes: int | None
) -> tuple[dict[str, Predictions], NDArray[np.uint64]]:
    """Answers by engine, and the key (N,) of each test image."""
    keys: list[NDArray[np.uint64]] = []
    with console.bar("accuracy", len(labels) * len(engines)) as bar:
        return predict(engines, keyed(batches(), keys), labels, classes, bar.advance), np.concatenate(keys)


def _first_fp32(records: Mapping[str, EngineRecord], engines: Mapping[str, Loaded]) -> str | None:
    return next((name for name in engines if records[name].precision == "fp32"), None)


def _extras(
    engine: Loaded, images: Images, cfg: Measure, on_a_gpu: bool, normalized: Callable[[], Images] | None
) -> dict[str, Any]:
    batch, counts, gpu = fill(images, cfg.batch), counter(on_a_gpu), card() if on_a_gpu else None
    set_up = settings() | (gpu.settings() if gpu else {})  # before anything else is run
    outer = {f"{name}_ms": None if ms is None else summary(ms)
             for name, ms in outer_ms(engine, batch, normalized).items()}
    return {**outer, "throughput": sweep(engine, images, cfg.throughput_batches),
            "transfer_ms": _transfers(engine, batch),
            "energy": energy(engine, batch, counts) if counts else None, "machine_settings": set_up}


def _memory(folder: Path, batch: int, threads: int) -> dict[str, Any]:
    peak, reason = peak_memory_bytes(folder, batch, threads)
    return {"peak_memory_bytes": peak, "peak_memory_reason": reason}


def _transfers(engine: Loaded, images: Images) -> dict[str, float] | None:
    """Median milliseconds of the copies to and from the GPU; None on a CPU."""
    both = engine.transfer_ms(images, TRANSFER_RUNS)
    if both is None:
        return None
    to_device, from_device = np.median(both, axis=0)
    return {"to_device": float(to_device), "from_device": float(from_device)}


def _measured(
    record: EngineRecord, alive: list[EngineRecord], unpruned: list[EngineRecord],
    predictions: Mapping[str, Predictions], samples: Mapping[str, Samples], labels: NDArray[np.int64], cfg: Measure,
    threads: int, seed: int,
) -> dict[str, Any]:
    """What running an engine told, in report.json's words. alive, unpruned: the engines it may be compared with."""
    own, reference = predictions[record.name], fp32_reference(record, alive, same_device=False)

    def faster_than(other: str | None) -> dict[str, float] | None:
        return speedup(samples[other], samples[record.name], seed) if other else None

    def changed_from(other: str | None) -> dict[str, float] | None:
        return top1_change(own, predictions[other], labels, seed) if other else None

    timed = fp32_reference(record, alive, same_device=True)
    before = fp32_reference(record, unpruned, same_device=True)
    return {
        "measured": True, "reason": None,
        **accuracy(own, labels),
        "agreement_percent": agreement_percent(own, predictions[reference]) if reference else None,
        "top1_change_vs_fp32": changed_from(reference), "accuracy_reference": reference,
        "latency_ms": summary(samples[record.name]),
        "latency_conditions": {"boundary": "device only", "batch": cfg.batch, "threads": threads,
                               "warmup": cfg.warmup, "rounds": cfg.rounds,
                               "runs_per_round": cfg.runs_per_round, "settle_ms": SETTLE_MS},
        "speedup_vs_fp32": faster_than(timed), "latency_reference": timed,
        "speedup_vs_unpruned": faster_than(before), "unpruned_reference": before,
        "top1_change_vs_unpruned": changed_from(fp32_reference(record, unpruned, same_device=False)),
    }


def _facts(record: EngineRecord) -> dict[str, Any]:
    """What is known of an engine without running it."""
    keys = ("name", "precision", "runtime", "target", "sha256", "engine_bytes", "weight_bytes", "compute", "device",
            "runtime_version")
    return {key: getattr(record, key) for key in keys}


def _not_measured(reason: str) -> dict[str, Any]:
    unknown = ("top1_percent", "top1_interval", "top5_percent", "agreement_percent", "latency_ms", "speedup_vs_fp32",
               "peak_memory_bytes")
    return {"measured": False, "reason": reason, **dict.fromkeys(unknown), "throughput": []}


def _save(
    folder: Path, predictions: Mapping[str, Predictions], samples: Mapping[str, Samples],
    images: Mapping[str, NDArray[Any]],
) -> None:
    """predictions.npz: labels (N,), keys (N,) uint64 of the images (none where no engine runs here), <engine> (N, 5)
    classes, best first. latency.npz: <engine> (rounds, runs) ms."""
    save_arrays(folder / "predictions.npz", {**images, **{name: p.top for name, p in predictions.items()}})
    save_arrays(folder / "latency.npz", dict(samples))
