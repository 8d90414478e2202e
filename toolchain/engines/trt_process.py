"""The parent's side of a TensorRT build: starts trt_build in its own process, shows its progress, reads its answer."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from toolchain import console, errors
from toolchain.engines.trt_build import Job
from toolchain.errors import EngineError


def run_build(job: Job, title: str) -> dict[str, Any]:
    """Build `job`; returns {runtime_version, layers}, the engine lies at job.engine.

    Raises what the build raised (EngineError, MissingPackage, OSError for a full disk), or EngineError when the
    process ended without an answer.
    """
    with TemporaryDirectory() as scratch, open(Path(scratch) / "stderr", "w+b") as noise:
        path = Path(scratch) / "job.json"
        path.write_text(json.dumps(asdict(job)))
        command = [sys.executable, "-m", "toolchain.engines.trt_build", str(path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise)
        try:
            assert process.stdout is not None
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
    return unwrap(answer)


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
