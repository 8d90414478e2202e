"""Run a command without address randomization: `python fixed_addresses.py COMMAND…` (Linux; elsewhere it just runs).

TensorRT numbers its internal tensors in the order of their addresses, so under address randomization one build in a
few differs from the last in these names, and no two engine files could be compared by digest.
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


if __name__ == "__main__":
    fix_addresses()
    os.execv(sys.argv[1], sys.argv[1:])
