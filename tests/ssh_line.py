"""A line to an SSH server that can be cut, slowed and counted: a TCP proxy on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

from toolchain.devices.file import Device


class Line:
    """Forwards connections to `target` (a port). sent: bytes towards the server, of all connections together.

    cut_at: when `sent` reaches the first of these numbers every connection is cut, and the number is used up.
    stall_at: when `sent` reaches it, what is said on the connections of that moment gets nowhere any more, silently.
    bytes_per_s: as fast as it goes towards the server, if set. whole: while False nobody gets through.
    """

    def __init__(self, target: int) -> None:
        self.target, self.sent, self.cut_at = target, 0, list[int]()
        self.bytes_per_s: float | None = None
        self.stall_at: int | None = None
        self._dead: set[int] = set()
        self.whole, self.connections = True, 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Cut every connection, as pulling the cable would (a reset, and nothing more is said)."""
        pairs, self._pairs = self._pairs, []
        for end in (end for pair in pairs for end in pair):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                end.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                end.close()

    def close(self) -> None:
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            if not self.whole:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            for end in (near, far):  # a cable does not wait for more to send
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self._pairs.append((near, far))
            for ends in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._pump, args=(*ends, self.connections), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool, number: int) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(1 << 14):
                if counted:
                    if self.bytes_per_s:
                        time.sleep(len(block) / self.bytes_per_s)
                    self.sent += len(block)
                    if self.cut_at and self.sent >= self.cut_at[0]:
                        self.cut_at.pop(0)
                        self.cut()
                        return
                    if self.stall_at and self.sent >= self.stall_at:
                        self.stall_at = None
                        self._dead.add(number)
                if number not in self._dead:
                    target.sendall(block)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def waiting(device: Device, folder: Path, word: str) -> tuple[Device, Path]:
    """The device with a Python that waits a second when it is first asked to do `word`, and the file it makes then."""
    mark, program = folder / "began", folder / "waiting_python"
    program.write_text(f'#!/bin/sh\ncase "$*" in *" {word} "*) [ -e {mark} ] || {{ touch {mark}; sleep 1; }};; esac\nexec {device.python} "$@"\n')
    program.chmod(0o755)
    return device.model_copy(update={"python": str(program)}), mark


def cut_after(mark: Path, line: Line) -> None:
    """Cut the line as soon as the file is there."""
    def wait() -> None:
        for _ in range(6000):
            if mark.exists():
                line.cut()
                return
            time.sleep(0.01)

    threading.Thread(target=wait, daemon=True).start()
