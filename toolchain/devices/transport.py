"""Commands and files over SSH, on a connection that is made anew when it is cut; files go on where they stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import asyncssh

from toolchain.console import PlainBar, log
from toolchain.devices.connect import Unreachable, connected
from toolchain.devices.file import Device
from toolchain.devices.pieces import CHUNK, append, here, piece
from toolchain.devices.sftp import GONE, ROOM, amount, disk, file_bytes, make_folder, rename, replace, told
from toolchain.devices.words import command_line
from toolchain.errors import DeviceError
from toolchain.runner.answers import plain

TRIES = 6  # in a row that got nothing across
PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0  # before the next try; doubled each time
T = TypeVar("T")


class Done(NamedTuple):
    """A command that ended there. code: its exit code; negative: a signal ended it. out, err: what it said, whole."""

    code: int
    out: str
    err: str


class _Cut(ConnectionError):
    """The connection ended before the command did."""


class Link:
    """A device, reached. Whatever is asked of it is asked again on a new connection when one is cut."""

    def __init__(self, name: str, device: Device) -> None:
        self.name, self.device = name, device
        self.folder, self.python = "", device.python  # absolute, once connected
        self._connection: asyncssh.SSHClientConnection | None = None
        self._sftp: asyncssh.SFTPClient | None = None
        self.again = "the same command goes on from where it stopped"  # told where the connection is lost for good
        self._fruitless = 0  # tries in a row

    async def __aenter__(self) -> Link:
        asyncio.get_running_loop().set_exception_handler(_told_elsewhere)
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def run(self, words: Sequence[str], heard: Callable[[str], None] = lambda line: None) -> Done:
        """Run a program there, and again after a cut: it must bear that. heard: gets each line of stdout as it comes.

        Raises DeviceError when the connection does not come back.
        """
        async def act(link: Link) -> Done:
            return await link._run(words, heard)

        return await self._insisting(act)

    async def push(self, source: Path | bytes, target: str) -> None:
        """Write `source` to the path `target` there, from where an earlier try was cut. What it holds is not checked:
        a part of another file would be gone on with. Raises WorkDirError, DeviceError (and says if the disk is full).
        """
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        bar = PlainBar(f"{self.name}: KB sent", size // 1000)
        reached = [0]  # over all tries

        async def act(link: Link) -> None:
            sftp = link._files()
            there = await file_bytes(sftp, target)
            if there > size:
                await sftp.remove(target)
            start = 0 if there > size else max(0, there - 1) // CHUNK * CHUNK  # the last piece may have holes
            if start:
                log(f"{self.name}: goes on at {start / 1e6:.1f} of {size / 1e6:.1f} MB")
            await link._room(target, size - start)
            async with sftp.open(target, asyncssh.FXF_WRITE | asyncssh.FXF_CREAT, encoding=None) as file:
                for begin in range(start, max(size, 1), CHUNK):
                    await file.write(piece(source, begin), begin)
                    if begin + CHUNK > reached[0]:
                        bar.advance((min(begin + CHUNK, size) - reached[0]) // 1000)
                        reached[0], link._fruitless = begin + CHUNK, 0

        await self._insisting(act)

    async def write(self, files: Mapping[str, bytes]) -> None:
        """Write small files there, by path, in folders that are made for them; each appears whole.

        Raises DeviceError.
        """
        async def one(sftp: asyncssh.SFTPClient, target: str, content: bytes) -> None:
            part = f"{target}.{secrets.token_hex(4)}.part"  # another of us may write the same
            async with sftp.open(part, "wb") as file:
                await file.write(content)
            await sftp.posix_rename(part, target)

        async def act(link: Link) -> None:
            sftp = link._files()
            for folder in sorted({posixpath.dirname(target) for target in files}):
                await make_folder(sftp, folder)
            await link._room(next(iter(files)), sum(map(len, files.values())))
            await asyncio.gather(*(one(sftp, target, content) for target, content in files.items()))

        await self._insisting(act)

    async def fetch(self, source: str, target: Path) -> None:
        """Copy the file at the path `source` there to `target` here, which appears whole.

        Raises DeviceError, WorkDirError.
        """
        part = target.with_name(f".{target.name}.part")

        async def act(link: Link) -> None:
            async with link._files().open(source, "rb") as file:
                while block := cast(bytes, await file.read(CHUNK, part.stat().st_size)):
                    append(part, block)
                    link._fruitless = 0

        with here(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(b"")
        await self._insisting(act)
        os.replace(part, target)

    async def rename(self, source: str, target: str, instead: bool = False) -> None:
        """Give a folder its last name, unless there is one of that name already. instead: that one goes.

        Raises DeviceError.
        """
        async def act(link: Link) -> None:
            await (replace if instead else rename)(link._files(), source, target)

        await self._insisting(act)

    async def remove(self, path: str) -> None:
        """Remove a file there, if there is one. Raises DeviceError."""
        async def act(link: Link) -> None:
            with contextlib.suppress(asyncssh.SFTPNoSuchFile):
                await link._files().remove(path)

        await self._insisting(act)

    async def _insisting(self, act: Callable[[Link], Awaitable[T]]) -> T:
        while True:
            try:
                await self._open()
                found = await act(self)
                self._fruitless = 0
                return found
            except GONE as error:
                await self._again(error)
            except asyncssh.SFTPError as error:
                raise DeviceError(f"{self.name}: {await told(self._files(), self.folder, error)}") from None

    async def _again(self, error: BaseException) -> None:
        """Wait for a better moment. Raises DeviceError when there have been TRIES without any."""
        await self._close()
        self._fruitless += 1
        if self._fruitless >= TRIES:
            why = str(error).removeprefix(f"{self.name}: ") if isinstance(error, Unreachable) else "it is always cut"
            raise DeviceError(f"{self.name}: the connection was cut and did not come back in {TRIES} tries: {why}; "
                              f"{self.again}") from None
        pause = min(LONGEST_PAUSE_S, PAUSE_S * 2 ** (self._fruitless - 1))
        log(f"{self.name}: the connection was cut; again in {pause:g} s")
        await asyncio.sleep(pause)

    async def _open(self) -> None:
        if self._connection is None:
            self._connection = await connected(self.name, self.device)
            try:
                self._sftp = await self._connection.start_sftp_client()
                home = await self._sftp.realpath(".")
            except (asyncssh.Error, OSError) as error:
                raise await self._no_sftp(error) from None
            self.folder, self.python = (
                posixpath.join(str(home), path[2:]) if path.startswith("~/") else path
                for path in (self.device.folder, self.device.python))

    async def _no_sftp(self, error: Exception) -> DeviceError:
        """Why no files can be sent, though the device was entered: what a login shell prints comes first, if it does.

        Unreachable where it was cut.
        """
        try:
            said = (await self._run(["true"], lambda line: None)).out.strip()
        except GONE:
            await self._close()
            return Unreachable(f"{self.name}: the connection was cut as it was made")
        await self._close()
        if said:
            return DeviceError(f"{self.name}: its login shell prints {plain(said)[:60]!r} before any program does, "
                               "which SFTP cannot bear; have it print that for people alone: in ~/.bashrc there, "
                               "below the line `[ -t 1 ] || return` (another shell's file: by its own such line)")
        return DeviceError(f"{self.name}: has no SFTP, by which files are sent ({getattr(error, 'reason', error)}); "
                           "switch it on in its SSH server (Subsystem sftp internal-sftp in sshd_config)")

    async def _close(self) -> None:
        connection, self._connection, self._sftp = self._connection, None, None
        if connection is not None:
            connection.abort()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(connection.wait_closed(), 5)

    def _files(self) -> asyncssh.SFTPClient:
        assert self._sftp is not None  # _insisting opened it
        return self._sftp

    async def _run(self, words: Sequence[str], heard: Callable[[str], None]) -> Done:
        assert self._connection is not None
        process: Any = await self._connection.create_process(
            command_line(words), encoding="utf-8", errors="replace", stdin=asyncssh.DEVNULL)
        errors, lines = asyncio.ensure_future(process.stderr.read()), []
        try:
            async for line in process.stdout:
                lines.append(line)
                heard(line)
            err = await errors
            await process.wait_closed()
        finally:
            errors.cancel()
        if process.exit_status is None:
            raise _Cut("the connection ended before the command did")
        return Done(process.returncode, "".join(lines), err)

    async def _room(self, target: str, needed: int) -> None:
        """Raise DeviceError where `needed` bytes do not fit. Servers that do not tell are believed to have them."""
        found = await disk(self._files(), posixpath.dirname(target))
        if found is not None and found.whole_bytes and found.free_bytes < needed:
            raise DeviceError(f"{self.name}: {self.folder} has {amount(found.free_bytes)} free, and {amount(needed)} "
                              f"more are needed; {ROOM}")


def _told_elsewhere(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a cut line leaves behind in asyncssh's own tasks is no news: whoever waited for them was told."""
    if not isinstance(context.get("exception"), (asyncssh.Error, OSError)):
        loop.default_exception_handler(context)
