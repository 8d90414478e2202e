"""What a device runs: `python3 run.py COMMAND ...`, or `python3 run.py image.jpg` for the labels of images.

It needs python3 (3.8 or newer), numpy and a runtime (onnxruntime, or JetPack's tensorrt), and the folder runner/ beside
it. This file alone is in words that older Pythons read too, so that they can be told.
"""

import os
import sys

OLDEST = (3, 8)


def start():
    """Hand over to runner/commands.py; returns the exit code."""
    if sys.version_info < OLDEST:
        sys.stderr.write("this is Python %d.%d, expected 3.8 or newer\n" % sys.version_info[:2])  # noqa: UP031
        return 14
    sys.dont_write_bytecode = True  # a slot stays what was signed
    here = os.path.dirname(os.path.realpath(__file__))  # not by way of `current`, which may be switched meanwhile
    place = here if os.path.isdir(os.path.join(here, "runner")) else os.path.dirname(here)  # in the sources
    sys.path[:] = [place] + [path for path in sys.path if os.path.realpath(path or ".") != here]
    from importlib import import_module

    try:
        commands = import_module("runner.commands")
    except ModuleNotFoundError as error:
        sys.stderr.write("%s: expected the folder runner/ beside run.py\n" % error)  # noqa: UP031
        return 14
    return commands.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(start())
