"""The runner on a device: put there, asked, and what it answers; files in its store, each sent once."""

from __future__ import annotations

import hashlib
import json
import posixpath
import secrets
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from toolchain.console import LINE_EVERY_S, log
from toolchain.devices.transport import Link
from toolchain.errors import BundleRefused, DeviceError
from toolchain.runner.answers import plain
from toolchain.ship.gather import runner_files

REFUSED = 13  # the runner's exit code where it does not accept a bundle or a blob
NOT_FOUND, NOT_RUNNABLE = 127, 126  # the shell's


async def ready(link: Link) -> dict[str, Any]:
    """Put the runner there unless it is there, and return what the device has, as `probe` tells it.

    Raises DeviceError: no python3, or one that is too old.
    """
    place = _code(link)
    if not await link.exists(place):
        made = f"{place}.{secrets.token_hex(4)}.part"
        await link.write({posixpath.join(made, name): file for name, file in _runner().items()})
        await link.rename(made, place)
    return await ask(link, "probe")


async def ask(link: Link, *words: str) -> dict[str, Any]:
    """What the runner there answers to a command, which it must bear to hear twice: a cut line asks again.

    Raises BundleRefused and DeviceError with its own sentence.
    """
    heard = _Progress(link.name)
    done = await link.run([link.python, posixpath.join(_code(link), "run.py"), "--folder", link.folder, *words],
                          heard.line)
    if done.code != 0:
        told = (done.err.strip().splitlines() or ["it said nothing"])[-1]
        if done.code in (NOT_FOUND, NOT_RUNNABLE):
            told = (f"there is no program {link.python} that this user can start; install python3 there, or "
                    "name it in devices.yaml (python)")
        if done.code < 0:
            memory = "; out of memory?" if done.code == -9 else ""
            told = f"`{words[0]}` was ended there by signal {-done.code}{memory}"
        raise (BundleRefused if done.code == REFUSED else DeviceError)(f"{link.name}: {plain(told)}")
    try:
        answer = json.loads((done.out.strip().splitlines() or [""])[-1])
        if isinstance(answer, dict):
            return answer
    except ValueError:
        pass
    raise DeviceError(f"{link.name}: `{words[0]}` gave no answer that can be read: {done.out.strip()[-200:]!r}")


async def job(link: Link, command: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Have the runner do `command` for a job, whose id is added: the digest of its content. Raises as `ask` does."""
    await link.write({_job_file(link, content): json.dumps(content, indent=1).encode()})
    return await ask(link, command, _job_file(link, content))


def with_id(content: Mapping[str, Any], nonce: str = "") -> dict[str, Any]:
    """The job with its id, a digest of what is asked: the same job finds what it has left. nonce: makes it another."""
    text = json.dumps(content, sort_keys=True) + nonce
    return {"id": hashlib.sha256(text.encode()).hexdigest()[:24], **content}


async def send(link: Link, blobs: Mapping[str, Path | bytes]) -> str:
    """Have each of the files, by SHA-256, in the store there; what is there already is not sent. Returns the store.

    Raises DeviceError.
    """
    there = await ask(link, "have", *blobs)
    store = str(there["store"])
    for digest, source in blobs.items():
        if digest in there["have"]:
            continue
        start, path = time.monotonic(), posixpath.join(store, digest)
        for last in (False, True):
            await link.push(source, f"{path}.part")
            try:
                await ask(link, "put", digest)
                break
            except BundleRefused as told:  # what lay there was a part of something else; it is deleted
                if last:
                    raise DeviceError(str(told)) from None
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        shown = f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} KB"
        log(f"{link.name}: sent {shown} in {time.monotonic() - start:.1f} s")
    return store


def needs(facts: Mapping[str, Any], link: Link) -> None:
    """Raise DeviceError where numpy is missing there, or every runtime."""
    which = f"{link.python} ({facts['python']})"
    if facts["numpy"] is None:
        raise DeviceError(f"{link.name}: numpy is not installed for {which}; install it there, or name the Python that "
                          "has it in devices.yaml (python)")
    if not facts["runtimes"]:
        broken = "".join(f"; {name} is there, and does not load: {why}" for name, why in facts["broken"].items())
        raise DeviceError(f"{link.name}: has no runtime for {which}: neither onnxruntime nor tensorrt{broken}; install "
                          "one there, or name the Python that has it in devices.yaml (python)")


class _Progress:
    """The runner's progress as log lines, a few seconds apart."""

    def __init__(self, name: str) -> None:
        self.name, self.last = name, time.monotonic()

    def line(self, text: str) -> None:
        if '"progress"' not in text or time.monotonic() - self.last < LINE_EVERY_S:
            return
        try:
            told = json.loads(text)
            share = "" if told["progress"] is None else f" {100 * told['progress']:.0f} %"
            log(f"  {self.name}: {plain(str(told['doing']))}{share}")
            self.last = time.monotonic()
        except (ValueError, KeyError, TypeError):
            return


@cache
def _runner() -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in sorted(runner_files().items())}


def _code(link: Link) -> str:
    """Where this version of the runner lies: another one may be at work beside it."""
    digest = hashlib.sha256(b"".join(name.encode() + b"\0" + file for name, file in _runner().items())).hexdigest()
    return posixpath.join(link.folder, "code", digest[:16])


def _job_file(link: Link, content: Mapping[str, Any]) -> str:
    return posixpath.join(link.folder, "runs", content["id"], "job.json")
