"""Run one command and print what it took: `python timed.py COMMAND …` -> one line of JSON, last.

Wall and CPU seconds from start to exit, imports and all, and the largest resident memory of any process in it. The
kernel counts what a child held before it became the command, so the one who starts it must be small: this file.
"""

import json
import os
import sys
import time


def main() -> None:
    """Start the command with its output on standard error, wait, and print its cost and exit status."""
    start = time.perf_counter()
    child = os.fork()
    if not child:
        os.dup2(2, 1)
        os.execv(sys.argv[1], sys.argv[1:])
    _, status, usage = os.wait4(child, 0)
    print(json.dumps({
        "seconds": time.perf_counter() - start, "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_bytes": 1024 * usage.ru_maxrss, "status": os.waitstatus_to_exitcode(status)}))


if __name__ == "__main__":
    main()
