"""Layers times settings: each point measured once, in this process or in several, and kept as soon as it is there.

Every network computes on one thread, so a point's figures do not depend on how many processes share the work, nor on
their order. What is finished lies in points.jsonl: a scan that was killed goes on with the rest.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from toolchain import console
from toolchain.engines.cpu import default_threads
from toolchain.errors import EngineError, TrainError
from toolchain.files import write_bytes, write_text
from toolchain.measure.accuracy import percent
from toolchain.measure.fidelity import kl_nats
from toolchain.sensitivity.file import Baseline, Kind, LayerScan, Point, Sensitivity

POINTS, BASELINE = "points.jsonl", "baseline.npy"
WORTH_PROCESSES_S = 20.0  # of work left: starting a process costs some seconds itself
Setting = float | str  # a ratio, or a precision
Logits = NDArray[np.float32]  # (n, K)


@dataclass(frozen=True)
class Facts:
    """A layer or group that can be scanned; `parameters` and `macs` as in the file."""

    name: str
    parameters: int
    macs: int | None


class Network(Protocol):
    """A network whose layers can be harmed one at a time."""

    labels: NDArray[np.int64]  # (n,)
    shared: bool  # it computes on a device that processes would only share

    def facts(self) -> list[Facts]:
        """Its layers, in order."""

    def removable(self) -> float | None:
        """As in the file; None where no channels go."""

    def baseline(self) -> Logits:
        """Logits of all images as the network is."""

    def harmed(self, layer: str, setting: Setting) -> Logits:
        """Logits with this layer alone changed; the network is then as it was."""


def scan(
    open_network: Callable[[], Network], kind: Kind, settings: Sequence[Setting], folder: Path, jobs: int | None = None
) -> Sensitivity:
    """Measure every layer at every setting on the network's images.

    open_network: picklable, called once in each process. folder: holds what is finished, and is used again. jobs:
    processes; None: as many as there are cores, where the work is worth it. Raises EngineError or TrainError for logits
    that are not finite or a process that died, and whatever opening and harming raise.
    """
    network = open_network()
    facts = network.facts()
    base = _baseline(network, folder)
    done = _finished(folder / POINTS)
    wanted = [(fact.name, setting) for fact in facts for setting in settings]
    todo = [point for point in wanted if point not in done]
    if done:
        console.log(f"  sensitivity of {kind}: {len(wanted) - len(todo)} of {len(wanted)} points were measured before")
    with console.bar(f"sensitivity of {kind}", len(todo)) as bar, open(folder / POINTS, "a", encoding="utf-8") as file:
        for point in _measured(network, open_network, todo, base, folder, jobs):
            file.write(json.dumps(point) + "\n")
            file.flush()
            done[point["layer"], point["setting"]] = point
            bar.advance(1, layer=point["layer"], setting=point["setting"], top1=point["top1_percent"])
    top1 = _top1(base, network.labels)
    layers = [LayerScan(name=fact.name, parameters=fact.parameters, macs=fact.macs,
                        points=[_point(done[fact.name, setting], top1) for setting in settings]) for fact in facts]
    return Sensitivity(kind=kind, images=len(network.labels), baseline=Baseline(top1_percent=top1),
                       removable=network.removable(), layers=layers)


def measure(network: Network, layer: str, setting: Setting, base: Logits) -> dict[str, Any]:
    """One point, as a line of points.jsonl. base: the baseline's logits. Raises EngineError when logits are not finite.
    """
    logits = network.harmed(layer, setting)
    if not np.isfinite(logits).all():
        raise EngineError(f"sensitivity: layer {layer} at {setting}: the logits are NaN or infinite; check that the "
                          "network's own are finite")
    return {"layer": layer, "setting": setting, "top1_percent": _top1(logits, network.labels),
            "kl_nats": max(0.0, float(kl_nats(base, logits).mean()))}  # rounding may leave -1e-17


def clear_points(folder: Path) -> None:
    """Remove what `scan` kept to go on from: the result holds it all."""
    for name in (POINTS, BASELINE):
        (folder / name).unlink(missing_ok=True)


def _measured(
    network: Network, open_network: Callable[[], Network], todo: Sequence[tuple[str, Setting]], base: Logits,
    folder: Path, jobs: int | None,
) -> Iterator[dict[str, Any]]:
    """Every point as it gets ready. Without `jobs` the first ones, measured here, tell what the rest will take."""
    left, spent = list(todo), 0.0
    while left and (jobs == 1 or jobs is None and (network.shared or spent * len(left) < WORTH_PROCESSES_S)):
        start = time.perf_counter()
        yield measure(network, *left.pop(0), base)
        spent = time.perf_counter() - start
    if left:
        yield from _in_processes(open_network, left, folder, jobs or default_threads())


def _in_processes(
    open_network: Callable[[], Network], points: Sequence[tuple[str, Setting]], folder: Path, jobs: int
) -> Iterator[dict[str, Any]]:
    pool = ProcessPoolExecutor(min(jobs, len(points)), get_context("spawn"), _start, (open_network, folder / BASELINE))
    try:
        for done in as_completed([pool.submit(_measure, *point) for point in points]):
            yield done.result()
    except BrokenProcessPool:
        raise TrainError("sensitivity: a process of the scan died, perhaps for want of memory; the points measured so "
                         "far are kept: use fewer --jobs (a Python script of your own that scans needs "
                         "`if __name__ == '__main__':` around its calls)") from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_here: dict[str, Any] = {}  # of a worker process: how to open its network, then the network and the baseline


def _start(open_network: Callable[[], Network], baseline: Path) -> None:
    """A worker leaves Ctrl-C to its parent, and ends when the parent does, even by kill -9."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()

    def follow() -> None:
        if parent is not None:
            connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    _here.update(open=open_network, baseline=baseline)


def _measure(layer: str, setting: Setting) -> dict[str, Any]:
    if "network" not in _here:
        _here.update(network=_here["open"](), base=np.load(_here["baseline"]))
    return measure(_here["network"], layer, setting, _here["base"])


def _baseline(network: Network, folder: Path) -> Logits:
    path = folder / BASELINE
    if path.is_file():
        return np.load(path)
    base = network.baseline()
    if not np.isfinite(base).all():
        raise TrainError("sensitivity: the network's own logits are NaN or infinite; train it again")
    part = folder / f".{BASELINE}.npy"
    np.save(part, base)
    write_bytes(path, part.read_bytes())
    part.unlink()
    return base


def _finished(path: Path) -> dict[tuple[str, Setting], dict[str, Any]]:
    """Points of an earlier run; half a line at the end, of a killed one, is dropped from the file too."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("}\n")]
    write_text(path, "".join(whole))
    return {(point["layer"], point["setting"]): point for point in map(json.loads, whole)}


def _point(found: dict[str, Any], baseline: float) -> Point:
    key = "precision" if isinstance(found["setting"], str) else "ratio"
    return Point(**{key: found["setting"]}, top1_percent=found["top1_percent"], kl_nats=found["kl_nats"],
                 drop=baseline - found["top1_percent"])


def _top1(logits: Logits, labels: NDArray[np.int64]) -> float:
    return percent(logits.argmax(axis=1) == labels)
