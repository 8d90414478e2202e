"""A training run in words: its method, the terms of its loss, their weights by epoch, and its peers."""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

from toolchain.report.schema import TrainingRun
from toolchain.report.words import percent

WEIGHT = "_weight"


class Term(NamedTuple):
    """Something that is drawn over the epochs: (epoch, mean, or None for an epoch in which it did not count)."""

    title: str
    values: list[tuple[int, float | None]]


def run_title(run: TrainingRun) -> str:
    """'train', or 'train (dkd)' of a network that was taught."""
    return f"{run.title} ({run.taught.method})" if run.taught else run.title


def terms(run: TrainingRun) -> list[Term]:
    """The unweighted terms of the loss, then those weights that change."""
    names = dict.fromkeys(name for epoch in run.epochs for name in epoch.parts)
    changing = {name for name in names if name.endswith(WEIGHT) and len({text for _, text in _texts(run, name)}) > 1}
    shown = [name for name in names if not name.endswith(WEIGHT)] + [name for name in names if name in changing]
    return [Term(_title(name, run), [(e.epoch, e.parts.get(name)) for e in run.epochs]) for name in shown]


def weights_told(run: TrainingRun) -> str:
    """'Weights in the loss: labels 0.1 until epoch 4, then 1; dkd 0.9 until epoch 4, then exactly 0.', or "".

    A weight that is 0 in every epoch belongs to a term that the method does not have.
    """
    names = dict.fromkeys(name for epoch in run.epochs for name in epoch.parts if name.endswith(WEIGHT))
    told = [f"{_weighed(name, run)} {_course(_texts(run, name))}" for name in names
            if any(epoch.parts.get(name) for epoch in run.epochs)]
    return f"Weights in the loss: {'; '.join(told)}." if told else ""


def peers_told(run: TrainingRun) -> str:
    """Val top-1 of students that taught each other, their mean and the best, which the student became; or ""."""
    taught = run.taught
    if taught is None or not taught.peers_val_top1 or taught.best is None:
        return ""
    each, best = ", ".join(map(percent, taught.peers_val_top1)), taught.peers_val_top1[taught.best]
    return (f"Val top-1 of the peers: {each} %; mean {percent(taught.mean)} %, best {percent(best)} % "
            f"(peer {taught.best + 1}, which is the student from here on).")


def _texts(run: TrainingRun, name: str) -> list[tuple[int, str]]:
    """(epoch, weight) with as many digits as are meant: a mean over batches may be a rounding error off."""
    return [(e.epoch, f"{e.parts[name]:.4g}") for e in run.epochs if name in e.parts]


def _course(weights: list[tuple[int, str]]) -> str:
    """'0.9', or '0.9 until epoch 4, then exactly 0', or '0.05 to 0.95 until epoch 19, then 1'."""
    stretches = [list(same) for _, same in groupby(weights, key=lambda weight: weight[1])]
    if len(stretches) == 1:
        return weights[0][1]
    (start, last), before = stretches[-1][0], [weight for same in stretches[:-1] for weight in same]
    first, until = before[0][1], before[-1][1]
    changed = first if first == until else f"{first} to {until}"
    return f"{changed} until epoch {start - 1}, then {'exactly 0' if last == '0' else last}"


def _weighed(name: str, run: TrainingRun) -> str:
    method = run.taught.method if run.taught else "method"
    known = {"label": "labels", "method": method, "soft": "soft targets"}
    part = name.removesuffix(WEIGHT)
    return known.get(part, part.replace("_", " "))


def _title(name: str, run: TrainingRun) -> str:
    if name.endswith(WEIGHT):
        return f"weight of {_weighed(name, run)}"
    peer, _, part = name.rpartition("_")
    of = f"{peer.replace('_', ' ')}: " if peer.startswith("peer") else ""
    known = {"label": "label loss", "kl": "KL to the other peers, nats", "soft": "soft-target loss",
             "method": f"{run.taught.method if run.taught else 'method'} loss"}
    return of + known[part] if part in known and (of or not peer) else name.replace("_", " ")
