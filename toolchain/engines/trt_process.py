"""The parent's side of a TensorRT build: starts trt_build in its own process, shows its progress, reads its answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any

from toolchain import console, errors
from toolchain.engines import repeatable
from toolchain.engines.trt_build import Job
from toolchain.errors import EngineError


def run_build(job: Job, title: str) -> dict[str, Any]:
    """Build `job`; returns what trt_build.build does, the engine lies at job.engine.

    Raises what the build raised (EngineError, MissingPackage, OSError for a full disk), or EngineError when the
    process ended without an answer.
    """
    ahead_of_time = ["--one-cpu"] if job.sms else []  # kernels that are timed here may need the other CPUs
    command = [sys.executable, "-S", "-E", repeatable.__file__, *ahead_of_time,
               sys.executable, "-m", "toolchain.engines.trt_build"]
    with TemporaryFile() as noise, TemporaryDirectory() as scratch:
        inner = link(job, Path(scratch))
        process = subprocess.Popen(command, cwd=os.path.sep, env=environment(), stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=noise)
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps(asdict(inner)).encode() + b"\n")
            process.stdin.flush()
            answer = follow(process.stdout, title)
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()
        if answer is None:
            noise.seek(0)
            raise EngineError(f"{job.onnx}: {died(job.package, code, noise.read().decode(errors='replace'))}")
    if "error" in answer:
        answer["error"] = answer["error"].replace(inner.onnx, job.onnx).replace(inner.engine, job.engine)
    return unwrap(answer)


def link(job: Job, scratch: Path) -> Job:
    """The same job by names of equal length wherever its files lie, since longer names would shift addresses too."""
    onnx, folder = scratch / "model.onnx", scratch / "engine"
    try:
        onnx.symlink_to(os.path.abspath(job.onnx))
        folder.symlink_to(os.path.abspath(os.path.dirname(job.engine)), target_is_directory=True)
    except OSError:  # a file system without links: the build is right all the same
        return replace(job, onnx=os.path.abspath(job.onnx), engine=os.path.abspath(job.engine))
    return replace(job, onnx=str(onnx), engine=str(folder / os.path.basename(job.engine)))


def environment() -> dict[str, str]:
    """The few variables a build reads: others would only move its addresses about."""
    wanted = ("PATH", "HOME", "LD_LIBRARY_PATH", "SYSTEMROOT", "TEMP", "TMP", "CUDA_VISIBLE_DEVICES",
              "CUDA_DEVICE_ORDER")
    kept = {name: os.environ[name] for name in wanted if name in os.environ}
    places = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(places), "PYTHONHASHSEED": "0"}


def follow(lines: IO[bytes], title: str) -> dict[str, Any] | None:
    """Draw the bar while the child works; returns its last word, None when it had none."""
    shown = 0
    with console.bar(title, 100) as bar:
        for line in lines:
            answer = json.loads(line)
            if "progress" not in answer:
                return answer
            percent = round(100 * answer["progress"])
            bar.advance(percent - shown)
            shown = percent
    return None


def unwrap(answer: dict[str, Any]) -> dict[str, Any]:
    """The result in `answer`, or its error raised here as the class it was there."""
    if "result" in answer:
        return answer["result"]
    if answer["kind"] == "OSError":
        raise OSError(answer["errno"], answer["error"])
    raise getattr(errors, answer["kind"])(answer["error"])


def died(package: str, code: int, noise: str) -> str:
    """What to say of a build that ended without an answer: its signal or exit code, and its last line."""
    last = ([line.strip() for line in noise.splitlines() if line.strip()] or ["it printed nothing"])[-1]
    if code == -9:
        return f"the {package} builder was killed (signal 9), most likely for lack of memory; free some and try again"
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"the {package} builder ended with {how}: {last[:300]}"
