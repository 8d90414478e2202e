"""What SFTP leaves to its users: folders made by several at once or replaced, free space, and why a thing failed."""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
import stat
from typing import NamedTuple

import asyncssh

from toolchain.devices.connect import Unreachable

GONE = (asyncssh.SFTPNoConnection, asyncssh.SFTPConnectionLost, asyncssh.ChannelOpenError, asyncssh.DisconnectError,
        OSError, asyncio.TimeoutError, Unreachable, EOFError)  # the line was cut
ST_RDONLY = 1  # of statvfs
CHOOSE = "choose another folder in devices.yaml (folder)"
FULL_BYTES = 1 << 20  # less than this is free where a disk is full
ROOM = "make room there, and run the same command again: what was sent is not sent again"


class Disk(NamedTuple):
    """The disk that a folder there is on, or will be on."""

    free_bytes: int
    read_only: bool
    whole_bytes: int  # 0: no disk at all, as below /proc


async def disk(sftp: asyncssh.SFTPClient, folder: str) -> Disk | None:
    """None where the server does not tell."""
    while True:
        try:
            found = await sftp.statvfs(folder)
            return Disk(int(found.bavail * found.frsize), bool(found.flags & ST_RDONLY),
                        int(found.blocks * found.frsize))
        except GONE:
            raise
        except asyncssh.SFTPNoSuchFile:
            if folder in ("", "/"):
                return None
            folder = posixpath.dirname(folder)
        except asyncssh.SFTPError:
            return None


async def make_folder(sftp: asyncssh.SFTPClient, path: str) -> None:
    """Make the folder and those it lies in, though another of us may be making them too."""
    for last in (False, False, True):
        try:
            await sftp.makedirs(path, exist_ok=True)
            return
        except GONE:
            raise
        except asyncssh.SFTPError:
            if last:
                raise


async def file_bytes(sftp: asyncssh.SFTPClient, path: str) -> int:
    """Bytes of a file there; 0 where there is none."""
    try:
        found = await sftp.stat(path)
    except asyncssh.SFTPNoSuchFile:
        return 0
    return int(found.size or 0) if stat.S_ISREG(found.permissions or 0o100000) else 0


async def rename(sftp: asyncssh.SFTPClient, source: str, target: str) -> None:
    """Give a folder its last name, unless there is one of that name already."""
    try:
        if not await sftp.exists(target):
            await sftp.rename(source, target)
    except GONE:
        raise
    except asyncssh.SFTPError:  # somebody was faster
        if not await sftp.exists(target):
            raise
    await sftp.rmtree(source, ignore_errors=True)


async def replace(sftp: asyncssh.SFTPClient, source: str, target: str) -> None:
    """Give a folder its last name; one that has it goes. Bears to be done again after a cut."""
    if not await sftp.exists(source):  # it was done, and the line was cut then
        return
    away = f"{source}.old"
    if await sftp.exists(target) and not await sftp.exists(away):
        await sftp.rename(target, away)
    await rename(sftp, source, target)
    await sftp.rmtree(away, ignore_errors=True)


async def told(sftp: asyncssh.SFTPClient, folder: str, error: asyncssh.SFTPError) -> str:
    """What a failure below `folder` means; servers often say no more than 'Failure'."""
    found = None
    with contextlib.suppress(*GONE):
        found = await disk(sftp, folder)
    if found and not found.whole_bytes:
        return f"{folder} cannot be written ({error.reason}): no disk is there; {CHOOSE}"
    if found and found.read_only:
        return f"the disk with {folder} is read-only there; make it writable, or {CHOOSE}"
    if found and found.free_bytes < FULL_BYTES:
        return f"the disk with {folder} is full ({amount(found.free_bytes)} free); {ROOM}"
    if isinstance(error, asyncssh.SFTPPermissionDenied):
        return f"{folder} is not this user's to write in ({error.reason}); choose another in devices.yaml"
    return f"a file below {folder} cannot be read or written ({error.reason})"


def amount(count: int) -> str:
    """Bytes, for people."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} KB"
