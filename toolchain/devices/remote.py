"""The runner on a device: put there, asked, and what it answers; files in its store, each sent once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import posixpath
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from toolchain.console import LINE_EVERY_S, log
from toolchain.devices.code import ALTERED, END, put, start
from toolchain.devices.sftp import amount
from toolchain.devices.transport import Done, Link
from toolchain.errors import BundleRefused, DeviceError
from toolchain.files import sha256_file
from toolchain.runner.answers import plain

REFUSED = 13  # the runner's exit code where it does not accept a bundle or a blob
NOT_FOUND, NOT_RUNNABLE = 127, 126  # the shell's
SENDINGS = 3  # of the runner, until it is given up
FIRST_S = 1.0  # until something that lasts is told of


async def ready(link: Link) -> dict[str, Any]:
    """What the device has, as `probe` of the runner there tells it. Raises DeviceError: no python3, or too old."""
    return await ask(link, "probe")


async def ask(link: Link, *words: str) -> dict[str, Any]:
    """What the runner there answers to a command, which it must bear to hear twice: a cut line asks again. The runner
    is sent where it is missing or altered.

    Raises BundleRefused and DeviceError with its own sentence.
    """
    for again in range(SENDINGS + 1):
        done = await _heard(link, start(link, words))
        if done.code != ALTERED:
            return _answer(link.name, link.python, words[0], done)
        if again < SENDINGS:
            await put(link, instead=again > 0)
    raise DeviceError(f"{link.name}: the runner does not lie in {link.folder}/code as it was sent, {SENDINGS} times; "
                      "is that disk sound? Or choose another folder in devices.yaml (folder)")


async def _heard(link: Link, command: list[str]) -> Done:
    """Run it, and show how far it is."""
    progress = _Progress(link.name)
    shown = asyncio.ensure_future(progress.repeated())
    try:
        return await link.run(command, progress.line)
    finally:
        shown.cancel()


def _answer(name: str, python: str, word: str, done: Done) -> dict[str, Any]:
    """The JSON object among the lines of stdout. Raises BundleRefused, DeviceError with what stderr tells last."""
    if done.code != 0:
        told = (done.err.partition(END)[0].strip().splitlines() or ["it said nothing"])[-1]
        if done.code in (NOT_FOUND, NOT_RUNNABLE):
            told = (f"there is no program {python} that this user can start; install python3 there, or "
                    "name it in devices.yaml (python)")
        if signal := _signal(done):
            memory = "; out of memory?" if signal == 9 else ""
            told = f"`{word}` was ended there by signal {signal}{memory}"
        raise (BundleRefused if done.code == REFUSED else DeviceError)(f"{name}: {plain(told)}")
    for line in reversed(done.out.splitlines()):  # a login shell may print before and behind it
        with suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict) and "progress" not in answer:
                return answer
    raise DeviceError(f"{name}: `{word}` gave no answer that can be read: {done.out.strip()[-200:]!r}")


def _signal(done: Done) -> int:
    """What ended the runner, though it may be a login shell that tells it, in its own way; 0: it ended by itself."""
    if done.code < 0:
        return -done.code
    return done.code - 128 if done.code > 128 and END not in done.err else 0


async def job(link: Link, command: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Have the runner do `command` for a job, whose id is added: the digest of its content. Raises as `ask` does."""
    await link.write({_job_file(link, content): json.dumps(content, indent=1).encode()})
    return await job_again(link, command, content)


async def job_again(link: Link, command: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """What the runner answers by now to a job that it was sent: a job sent anew may be measured anew."""
    return await ask(link, command, _job_file(link, content))


async def forget(link: Link, content: Mapping[str, Any], *commands: str) -> None:
    """Have these commands of a job done anew, though they are finished there."""
    for command in commands:
        await link.remove(posixpath.join(posixpath.dirname(_job_file(link, content)), f"{command}.json"))


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
        begin, path = time.monotonic(), posixpath.join(store, digest)
        for last in (False, True):
            await link.push(source, f"{path}.part")
            try:
                await ask(link, "put", digest)
                break
            except BundleRefused:  # what lay there was a part of something else; it is deleted
                if isinstance(source, Path) and sha256_file(source) != digest:
                    raise DeviceError(f"{link.name}: {source} changed here while it was sent; run the same command "
                                      "again when nothing writes it any more") from None
                if last:
                    raise DeviceError(f"{link.name}: {source if isinstance(source, Path) else 'a file'} did not arrive "
                                      f"as it is, twice; is the disk with {link.folder} sound?") from None
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        log(f"{link.name}: sent {amount(size)} in {time.monotonic() - begin:.1f} s")
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
    """The runner's progress as log lines: a first one soon, then a few seconds apart, while nothing new is told too."""

    def __init__(self, name: str) -> None:
        self.name, self.told = name, ""
        self.since = time.monotonic()  # when it was told

    def line(self, text: str) -> None:
        if '"progress"' not in text:
            return
        with suppress(ValueError, KeyError, TypeError):
            found = json.loads(text)
            share = "" if found["progress"] is None else f" {100 * found['progress']:.0f} %"
            self.told, self.since = f"  {self.name}: {plain(str(found['doing']))}{share}", time.monotonic()

    async def repeated(self) -> None:
        """Show it until cancelled; what stays the same is shown less and less often."""
        await asyncio.sleep(FIRST_S)
        shown, due_s = "", 0.0
        while True:
            seconds = time.monotonic() - self.since
            if self.told and (self.told != shown or seconds >= due_s):
                log(self.told + (f" ({seconds:.0f} s)" if self.told == shown else ""))
                due_s = 2 * due_s if self.told == shown else LINE_EVERY_S
                shown = self.told
            await asyncio.sleep(LINE_EVERY_S if shown else FIRST_S)


def _job_file(link: Link, content: Mapping[str, Any]) -> str:
    return posixpath.join(link.folder, "runs", content["id"], "job.json")
