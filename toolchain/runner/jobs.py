"""One job on a device: engines built there from ONNX files, golden answers, accuracy and latency, all in runs/<id>/.

Each command may be said again: what is finished is answered from its file, what still works is waited for. So a cut
cable costs nothing but the waiting.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from .answers import Failed, progress
from .making import make_engine
from .place import NAME, Place, flushed, locked, sha256_file, write_json
from .probe import cores, device, governor, power_mode
from .tidy import HERE, forget_jobs
from .trust import Refused, strict_json

FIELDS = {"id", "engines", "threads", "preprocess", "images", "golden", "bench"}
OF_ENGINE = {"name", "precision", "compute", "runtime", "target", "onnx", "file", "batch", "workspace_mb", "sparse",
             "weight_bytes"}
RESERVED = ("labels", "keys", "again")


class Job:
    """What a job file says: JSON of the fields below, where files are named by their SHA-256 and lie in the store.

    id: of its folder. engines: [{"name", "runtime", "target", …}] with "onnx", what it is built from, or "file", an
    engine that is finished. threads: of a CPU engine; null: all cores. preprocess: as preprocess.json. images: .npz of
    `images` uint8 (n, S, S, 3), before they are normalized, and `labels` (n,). golden: {"images": .npy, "engines":
    {name: {"logits": .npy, "tolerance"}}}. bench: see timing.HOW. Raises Failed for what no job says.
    """

    def __init__(self, place: Place, path: Path) -> None:
        try:
            content = strict_json(path.read_bytes(), str(path))
        except (OSError, Refused) as error:
            raise Failed(f"{path}: cannot be read as a job ({error})") from None
        engines: Any = content.get("engines")
        if set(content) - FIELDS or not isinstance(engines, list) or not engines or \
                not all(isinstance(engine, dict) for engine in engines):
            raise Failed(f"{path}: found {', '.join(sorted(content))}, expected id, engines and of {', '.join(FIELDS)}")
        for engine in engines:
            name = engine.get("name")
            if not isinstance(name, str) or not NAME.fullmatch(name) or name in RESERVED or set(engine) - OF_ENGINE or \
                    not {"runtime", "target"} <= set(engine) or not {"onnx", "file"} & set(engine):
                raise Failed(f"{path}: found the engine {str(engine)[:200]}, expected name, runtime, target, and onnx "
                             "or file")
        self.place, self.content, self.folder = place, content, place.run(content.get("id"))
        self.engines: dict[str, dict[str, Any]] = {engine["name"]: engine for engine in engines}
        if len(self.engines) != len(engines):
            raise Failed(f"{path}: names an engine twice")
        self.threads: int | None = content.get("threads")
        if self.threads is not None and (type(self.threads) is not int or self.threads < 1):
            raise Failed(f"{path}: found threads {self.threads!r}, expected a whole number from 1 on, or null")

    def need(self, field: str) -> Any:
        """What the job says there. Raises Failed where it says nothing."""
        if not self.content.get(field):
            raise Failed(f"the job {self.folder.name} says nothing of {field}")
        return self.content[field]

    def file(self, name: str) -> Path:
        """The engine's file: as it was sent, or as it was built here. Raises Failed."""
        engine = self.engines[name]
        if engine.get("file"):
            return self.place.blob(engine["file"])
        folder = self.folder / "engines" / name
        record = _read(folder / "engine.json")
        if record is None:
            raise Failed(f"{name}: is not built on this device yet; say build first")
        if sha256_file(folder / record["engine"]) != record["sha256"]:
            raise Failed(f"{folder / record['engine']}: was altered since it was built; drop {self.folder.name} and "
                         "build again")
        return folder / str(record["engine"])

    def opened(self, stack: ExitStack) -> dict[str, Any]:
        """Every engine that could be built, open until `stack` ends. Raises Failed."""
        from .opened import open_engine

        built = _read(self.folder / "build.json") or {"engines": {}}
        names = [name for name in self.engines if "error" not in built["engines"].get(name, {})]
        if not names:
            raise Failed(f"the job {self.folder.name} has no engine that could be built")
        return {name: stack.enter_context(open_engine(self.engines[name], self.file(name), self.threads))
                for name in names}


def done(place: Place, path: Path, command: str) -> dict[str, Any]:
    """Do one command of a job, or wait for who does it, or answer from its file, if the device is as it was."""
    job = Job(place, path)
    forget_jobs(place, job.folder)
    job.folder.mkdir(parents=True, exist_ok=True)
    answer, asked = job.folder / f"{command}.json", {"job": job.content, "on": surroundings()}
    with locked(job.folder / f"{command}.lock", "waiting for the same job"):
        (job.folder / f"{command}.pid").write_text(str(os.getpid()))  # for `stop`
        known = _read(answer)
        if known is not None and all(known.get(field) == value for field, value in asked.items()) and \
                _there(place, known) and (_valid(known) or not _older(answer, path)):
            return {**{field: value for field, value in known.items() if field not in asked}, "cached": True}
        try:
            found = COMMANDS[command](job)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, BadZipFile) as error:
            raise Failed(f"{path}: the job, or a file that it names, is not as expected ({type(error).__name__}: "
                         f"{error})") from None
        write_json(answer, {**found, **asked})
        flushed(job.folder)
    return {**found, "cached": False}


def surroundings() -> dict[str, Any]:
    """What an answer depends on beside the job: another runtime, GPU, power mode or runner may give another."""
    return {**device(), "power_mode": power_mode(), "governor": governor(), "runner": HERE.name}


def build(job: Job) -> dict[str, Any]:
    """Every engine of the job; one that cannot be built does not stop the others."""
    found: dict[str, Any] = {}
    for name, engine in job.engines.items():
        if "onnx" not in engine:
            continue
        progress(f"build {name}")
        folder = job.folder / "engines" / name
        try:
            record = make_engine(job.place, engine, job.place.blob(engine["onnx"]), folder)
        except Failed as error:
            found[name] = {"error": str(error)}
            continue
        found[name] = {"folder": str(folder.relative_to(job.place.root)), "file": record["engine"],
                       **{field: record[field] for field in ("sha256", "engine_bytes", "runtime_version", "device")}}
    if not found:
        raise Failed(f"the job {job.folder.name} names no ONNX file to build from")
    if all("error" in one for one in found.values()):
        raise Failed("; ".join(one["error"] for one in found.values()))
    return {"engines": found}


def golden(job: Job) -> dict[str, Any]:
    """How each engine's logits of the golden images compare with those of where they were built."""
    import numpy as np

    from .images import normalize
    from .opened import replayed

    asked = job.need("golden")
    images = normalize(np.load(str(job.place.blob(asked["images"])), allow_pickle=False), job.need("preprocess"))
    found = {}
    with ExitStack() as stack:
        for name, engine in job.opened(stack).items():
            if name in asked["engines"]:
                facts = asked["engines"][name]
                expected = np.load(str(job.place.blob(facts["logits"])), allow_pickle=False)
                found[name] = replayed(engine.infer(images), expected, float(facts["tolerance"]))
    return {"engines": found}


def accuracy(job: Job) -> dict[str, Any]:
    """predictions.npz: labels (N,), keys (N,) of the images, and every engine's best classes (N, min(5, K))."""
    import numpy as np

    from .images import keys, normalize

    blobs, preprocess = [job.place.blob(digest) for digest in job.need("images")], job.need("preprocess")
    labels: list[Any] = []
    names: list[Any] = []
    top: dict[str, list[Any]] = {}
    with ExitStack() as stack:
        engines = job.opened(stack)
        for number, blob in enumerate(blobs):
            with np.load(str(blob), allow_pickle=False) as part:
                pictures, given = part["images"], part["labels"]
            for start in range(0, len(pictures), BATCH):
                images = normalize(pictures[start : start + BATCH], preprocess)
                names.append(keys(images))
                for name, engine in engines.items():
                    logits = engine.infer(images)
                    if not np.isfinite(logits).all():
                        raise Failed(f"{name}: its logits are NaN or infinite for some images")
                    top.setdefault(name, []).append(np.argsort(-logits, axis=1, kind="stable")[:, :TOP])
                progress("accuracy", (number + (start + len(images)) / len(pictures)) / len(blobs))
            labels.append(given)
    truth = np.concatenate(labels).astype(np.int64)
    answers = {name: np.concatenate(parts).astype(np.int64) for name, parts in top.items()}
    file = _saved(job, "predictions.npz", {"labels": truth, "keys": np.concatenate(names), **answers})
    right = {name: {"top1_percent": 100 * float((found[:, 0] == truth).mean())} for name, found in answers.items()}
    return {"engines": right, "images": len(truth), "file": file}


def bench(job: Job) -> dict[str, Any]:
    """latency.npz: every engine's milliseconds (rounds, runs), timed side by side, device only; what it is with
    transfers and end to end, and what an image costs, stand in the answer."""
    from .rounds import summary
    from .timing import beside, method, trusted_ms

    how = method(job.content.get("bench") or {})
    with ExitStack() as stack:
        engines = job.opened(stack)
        pixels = _pixels(job, how["batch"])
        images = {name: _batch(job, engine, how, pixels) for name, engine in engines.items()}
        samples, verdicts, conditions = trusted_ms(engines, images, how, job.threads)
        more = {name: beside(engine, images[name], pixels, job.content.get("preprocess"))
                for name, engine in engines.items()}
    file = _saved(job, "latency.npz", samples)
    rows = {name: {"input": list(images[name].shape), "boundary": "device only", "validity": verdicts[name],
                   **summary(samples[name]), **more[name]} for name in engines}
    return {"engines": rows, "file": file, "conditions": conditions, "threads": job.threads or cores(),
            **{field: how[field] for field in ("rounds", "runs", "batch", "warmup", "seed")}}


BATCH, TOP = 64, 5
COMMANDS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "build": build, "golden": golden, "accuracy": accuracy, "bench": bench}


def _pixels(job: Job, batch: int) -> Any:
    """uint8 (batch, S, S, 3): the first images of the evaluation set; None where there is none."""
    import numpy as np

    if not job.content.get("images"):
        return None
    with np.load(str(job.place.blob(job.content["images"][0])), allow_pickle=False) as part:
        pictures = part["images"]
    return pictures[np.arange(batch) % len(pictures)]


def _batch(job: Job, engine: Any, how: Mapping[str, int], pixels: Any) -> Any:
    from .images import normalize

    return engine.noise(how["batch"], how["seed"], how["size"]) if pixels is None else normalize(
        pixels, job.need("preprocess"))


def _saved(job: Job, name: str, arrays: dict[str, Any]) -> str:
    import numpy as np

    part = job.folder / f"part.{name}"
    np.savez(str(part), **arrays)
    os.replace(str(part), str(job.folder / name))
    return str((job.folder / name).relative_to(job.place.root))


def _there(place: Place, answer: Mapping[str, Any]) -> bool:
    """Whether the files that an earlier answer names are still there."""
    if any("error" in one for one in answer["engines"].values()):  # what hindered it may be gone
        return False
    files = [answer["file"]] if "file" in answer else [
        os.path.join(one["folder"], one["file"]) for one in answer["engines"].values() if "folder" in one]
    return all((place.root / file).is_file() for file in files)


def _valid(answer: Mapping[str, Any]) -> bool:
    """Whether no latency in it was inconclusive."""
    return all(one.get("validity", {}).get("verdict") != "inconclusive" for one in answer["engines"].values())


def _older(answer: Path, asked: Path) -> bool:
    """Whether the job was sent anew since: not by the same command after a cut, which does not send it again."""
    return answer.stat().st_mtime_ns < asked.stat().st_mtime_ns


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return strict_json(path.read_bytes(), str(path))
    except (OSError, Refused):
        return None
