"""Every error a user can meet, each with its own exit code.

A message says where, what was found, what was expected and what to do next, in that order.
`toolchain.cli.main` alone turns these into one printed line and an exit code; any other exception is our bug.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ToolchainError(Exception):
    """Something the user can mend. `str(error)` is the whole message; no traceback is shown."""

    exit_code = 1


class RecipeError(ToolchainError):
    """The recipe, an override or the command line asks for something that cannot be."""

    exit_code = 2


class DataError(ToolchainError):
    """A dataset or calibration set is missing, damaged, too small, or overlaps where it must not."""

    exit_code = 3


class TrainError(ToolchainError):
    """Training cannot go on (NaN loss, wrong checkpoint, classes that do not match)."""

    exit_code = 4


class OnnxError(ToolchainError):
    """An ONNX file is missing, damaged, unsupported, or does not compute what its source computes."""

    exit_code = 5


class EngineError(ToolchainError):
    """An engine cannot be built, loaded or run as asked."""

    exit_code = 6


class MissingPackage(ToolchainError):
    """A runtime or library that the recipe chose is not installed; the message holds the install line."""

    exit_code = 7


class DigestMismatch(ToolchainError):
    """A file is not the one that was written: its SHA-256 differs from the recorded one."""

    exit_code = 8


class WorkDirError(ToolchainError):
    """The output folder cannot be written (permission, full disk, or another build is using it)."""

    exit_code = 9


class LimitsNotHeld(ToolchainError):
    """The build is complete, but an engine does not hold what `limits` asks for."""

    exit_code = 10


class Regression(ToolchainError):
    """An engine is worse than its baseline by more than is tolerated."""

    exit_code = 11


class NotEnoughEvidence(ToolchainError):
    """Whether an engine is worse than its baseline cannot be told from what was measured."""

    exit_code = 12


class BundleRefused(ToolchainError):
    """A bundle was altered, is not signed by a trusted key, or is not for this device."""

    exit_code = 13


class DeviceError(ToolchainError):
    """A device cannot be reached, lacks what it needs, or failed at what it was asked to do."""

    exit_code = 14


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A ", did you mean 'x'?" clause for a misspelt `word`, or "" when nothing is close."""
    close = get_close_matches(str(word), [str(a) for a in allowed], n=1, cutoff=0.6)
    return f", did you mean '{close[0]}'?" if close else ""
