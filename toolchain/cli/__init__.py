"""The command line: arguments in, exit code out, nothing else."""

from __future__ import annotations

import os
import sys

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
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            _stop_at_once("interrupted; finished stages are kept, the same command goes on from here", INTERRUPTED)
        raise
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.strerror:  # a file or disk of theirs, wherever it was met
            what = f"{error.filename}: " if error.filename else ""
            print(f"error: {what}{error.strerror}; mend its permissions, or choose another place", file=sys.stderr)
            sys.exit(WorkDirError.exit_code)
        print(f"internal error: {type(error).__name__}: {error}\nThis is a bug in toolchain: please report it with the "
              "traceback that --debug shows.", file=sys.stderr)
        sys.exit(70)


def _stop_at_once(message: str, code: int) -> None:
    """Leave without waiting for worker threads of the runtimes."""
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)
