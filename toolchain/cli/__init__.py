"""The command line: arguments in, exit code out, nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from errno import ENOSPC

from toolchain.cli import (  # noqa: F401 - each adds its commands to app, in this order
    building,
    checking,
    devices,
    knowing,
    measuring,
    shipping,
    understanding,
)
from toolchain.cli.options import app
from toolchain.errors import ToolchainError, WorkDirError

INTERRUPTED = 130  # what typer turns a KeyboardInterrupt into
STAGED = ("build", "deploy", "sensitivity", "study")  # commands that go on from what they have done


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs a command and exits with its code; a ToolchainError becomes one message."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or bool(os.environ.get("TOOLCHAIN_DEBUG"))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows '?', and loses no result
    try:
        app([w for w in words if w != "--debug"], prog_name="toolchain")
    except ToolchainError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        _end_stdout()
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            _stop_at_once(f"interrupted; {_left(words)}", INTERRUPTED)
        if (why := _end_stdout()) and not stop.code:
            print(f"error: stdout: cannot be written ({why}); send it to another place", file=sys.stderr)
            sys.exit(WorkDirError.exit_code)
        raise
    except BrokenPipeError:
        _end_stdout()
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        _end_stdout()
        if isinstance(error, OSError) and error.strerror:  # a file or disk of theirs, wherever it was met
            what = f"{error.filename}: " if error.filename else ""
            mend = "free some space" if error.errno == ENOSPC else "mend its permissions"
            print(f"error: {what}{error.strerror}; {mend}, or choose another place", file=sys.stderr)
            sys.exit(WorkDirError.exit_code)
        print(f"internal error: {type(error).__name__}: {error}\nThis is a bug in toolchain: please report it with the "
              "traceback that --debug shows.", file=sys.stderr)
        sys.exit(70)


def _left(words: Sequence[str]) -> str:
    """What an interrupted command leaves, and how to go on."""
    command = next((word for word in words if not word.startswith("-")), "")
    if command not in STAGED:
        return "no file was left half written, run the same command again from its start"
    if command == "build" and any(word.partition("=")[0] == "--on" for word in words):
        return ("finished stages are kept, and devices go on with what they were asked already; the same command goes "
                "on from here, and fetches it")
    return "finished stages are kept, the same command goes on from here"


def _stop_at_once(message: str, code: int) -> None:
    """Leave without waiting for worker threads of the runtimes."""
    print(message, file=sys.stderr, flush=True)
    _end_stdout()
    os._exit(code)


def _end_stdout() -> str | None:
    """What keeps stdout from being written. Python would try once more at its end, and say so by a traceback."""
    try:
        sys.stdout.flush()
    except OSError as error:
        with suppress(OSError, ValueError):  # no file behind it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return None if isinstance(error, BrokenPipeError) else error.strerror
    return None
