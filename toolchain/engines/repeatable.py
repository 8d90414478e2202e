"""Run a command so that its heap repeats: `python repeatable.py [--one-cpu] COMMAND…` (Linux; elsewhere it just runs).

TensorRT numbers its internal tensors in the order of their addresses. Under address randomization one build in a few
differs from the last in these names; where its threads overtake each other, one in some hundred. No two engine files
could then be compared by digest.
"""

from __future__ import annotations

import ctypes
import os
import sys

ADDR_NO_RANDOMIZE = 0x0040000  # personality(2)
ASK = 0xFFFFFFFF


def fix_addresses() -> bool:
    """Switch randomization off for what this process executes next; False where the system does not allow it
    (some containers), which leaves builds correct, but not always byte-identical."""
    try:
        personality = ctypes.CDLL(None).personality
    except (AttributeError, OSError, TypeError):  # not Linux
        return False
    now = personality(ASK)
    return now != -1 and personality(now | ADDR_NO_RANDOMIZE) != -1


def addresses_are_fixed() -> bool:
    """Whether this process was executed so: else not even a quiet machine makes builds repeat."""
    try:
        now = int(ctypes.CDLL(None).personality(ASK))
    except (AttributeError, OSError, TypeError):
        return False
    return now != -1 and bool(now & ADDR_NO_RANDOMIZE)


def take_turns() -> None:
    """Keep the threads of what this process executes next on the CPU it is on, none interrupting another, so that they
    allocate in the same order, unless other work takes the CPU away at an odd moment. Where the system does not allow
    it, nothing changes.
    """
    try:
        os.sched_setaffinity(0, {ctypes.CDLL(None).sched_getcpu()})
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except (AttributeError, OSError, TypeError):  # not Linux, or forbidden
        return


if __name__ == "__main__":
    command = sys.argv[1:]
    if command[0] == "--one-cpu":
        command = command[1:]
        take_turns()
    fix_addresses()
    os.execv(command[0], command)
