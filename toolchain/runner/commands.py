"""The runner's commands: words in, one JSON object out, exit code 13 for what is refused and 14 for what failed."""

from __future__ import annotations

import argparse
import errno
import json
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .answers import FAILED, REFUSED, Failed, Out, plain, tell
from .place import FOLDER, SLOTS, Place, drop, have, put
from .trust import Refused

JOBS = {"build": "build the engines of a job from their ONNX files", "accuracy": "judge them on the job's images",
        "bench": "time them, side by side"}


def main(words: Sequence[str]) -> int:
    """Do what `words` say; returns the exit code."""
    asked = _parser(words).parse_args(list(words))
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a cut cable ends no job
    Out.keep_apart()
    return answered(asked)


def answered(asked: Any) -> int:
    """What was asked, done and told; stdout and signals stay as they are."""
    folder = getattr(asked, "folder", FOLDER)  # not a default of argparse: one after the command would hide one before
    try:
        answer = asked.does(Place(Path(folder)), asked)
    except Refused as told:
        return _said(plain(str(told)), REFUSED)
    except Failed as told:
        return _said(plain(str(told)), FAILED)
    except MemoryError:
        return _said("this device has not enough memory for it", FAILED)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        why = "the disk is full; make room, or choose another folder" if full else error.strerror or str(error)
        return _said(plain(f"{error.filename or folder}: {why}"), FAILED)
    except KeyboardInterrupt:
        return _said("stopped", 130)
    except Exception as error:  # ours to mend, but a device shows no traceback
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return _said(plain(f"internal error at {Path(frame.filename).name}:{frame.lineno}: {type(error).__name__}: "
                           f"{error}"), FAILED)
    if isinstance(answer, str):
        Out.say(answer)
    else:
        tell(answer)
    return 0


def _said(told: str, code: int) -> int:
    with suppress(OSError, ValueError):  # nobody listens any more
        print(told, file=sys.stderr, flush=True)
    return code


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("--folder", default=argparse.SUPPRESS, help=f"where everything lies, default {FOLDER}")
    first = _first(words)
    if first is not None and first not in COMMANDS:
        parser = argparse.ArgumentParser("run.py", parents=[folder], description="The labels of images.")
        parser.add_argument("images", nargs="+", metavar="IMAGE")
        _of_labels(parser)
        parser.set_defaults(does=_label)
        return parser
    parser = argparse.ArgumentParser(
        "run.py", parents=[folder], usage="run.py [--folder FOLDER] IMAGE... [--top TOP] [--slot {A,B}] [--json]\n"
        "       run.py [--folder FOLDER] COMMAND ...", description="What a device runs.")
    if first is None and not {"-h", "--help"} & set(words):
        parser.error(f"expected images, or a command: {', '.join(COMMANDS)}")
    if first is None:  # to be shown
        _of_labels(parser.add_argument_group("IMAGE...", "labels of images, for people"))
    several = parser.add_subparsers(title="COMMAND", description="answers in JSON", dest="command", metavar="COMMAND",
                                    prog="run.py")
    for name, (does, told, arguments) in COMMANDS.items():
        one = several.add_parser(name, parents=[folder], help=told, description=told)
        for flags, options in arguments:
            one.add_argument(*flags, **options)
        one.set_defaults(does=does)
    return parser


def _of_labels(parser: Any) -> None:
    parser.add_argument("--top", type=_count, default=5, help="how many labels, default 5")
    parser.add_argument("--slot", choices=SLOTS, help="default: the one in use")
    parser.add_argument("--json", action="store_true", help="labels as JSON")


def _first(words: Sequence[str]) -> str | None:
    """The first word that is no option."""
    left = iter(words)
    for word in left:
        if word == "--folder":
            next(left, None)
        elif not word.startswith("-"):
            return word
    return None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 1 on")
    return int(text)


def _probe(place: Place, asked: Any) -> dict[str, Any]:
    from .probe import probe

    return probe(place)


def _tidy(place: Place, asked: Any) -> dict[str, Any]:
    from .tidy import tidy

    return tidy(place, asked.days)


def _keys(place: Place, asked: Any) -> dict[str, Any]:
    from .keys import keys

    return keys(place, asked.remove)


def _stop(place: Place, asked: Any) -> dict[str, Any]:
    from .stopping import stop

    return stop(place, asked.ids)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1
    if not 0 <= days < 1e5:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number of days from 0 on")
    return days


def _verify(place: Place, asked: Any) -> dict[str, Any]:
    from .slots import verify

    bundle, takes = verify(place, asked.bundle, asked.keys)
    manifest = bundle.manifest
    return {"bundle": manifest["name"], "engine": manifest["engine"]["name"], "takes": takes, "key": bundle.key.name,
            "key_id": bundle.key.key_id, "limits_not_held": manifest["limits_not_held"],
            "manifest_sha256": bundle.manifest_sha256}


def _install(place: Place, asked: Any) -> dict[str, Any]:
    from .slots import install

    return install(place, asked.bundle, None if asked.slot == "auto" else asked.slot, asked.keys)


def _rollback(place: Place, asked: Any) -> dict[str, Any]:
    from .slots import rollback

    return rollback(place, asked.to)


def _status(place: Place, asked: Any) -> dict[str, Any]:
    from .slots import status

    return status(place)


def _golden(place: Place, asked: Any) -> dict[str, Any]:
    from .probe import need_numpy
    from .slots import folder_in_use
    from .unpacked import engine_of, replay

    need_numpy()
    if asked.job is not None:
        from .jobs import done

        return done(place, asked.job, "golden")
    folder = folder_in_use(place, asked.slot, HERE)
    found = replay(folder)
    if not found["held"]:
        raise Failed(f"{engine_of(folder)[0]['name']}: does not give its golden answers: distance "
                     f"{found['distance']}, allowed {found['tolerance']}, same answers: {found['same_answers']}")
    return found


def _job(place: Place, asked: Any) -> dict[str, Any]:
    from .jobs import done
    from .probe import need_numpy

    need_numpy()
    return done(place, asked.job, asked.command)


def _label(place: Place, asked: Any) -> str:
    from .probe import need_numpy

    lacking = [name for name in asked.images if not Path(name).is_file()]
    if lacking:
        raise Failed(f"{lacking[0]}: is no file; expected images, or a command: {', '.join(COMMANDS)}")
    need_numpy()
    from .label import labels, words
    from .slots import folder_in_use

    found = labels(folder_in_use(place, asked.slot, HERE), [Path(name) for name in asked.images], asked.top)
    return json.dumps({"images": found}) if asked.json else words(found)


HERE = Path(__file__).resolve().parents[1]  # where run.py lies: in a slot or an unpacked bundle, perhaps
DIGESTS = (("digests",), {"nargs": "*", "metavar": "DIGEST"})
BUNDLE = [(("bundle",), {"metavar": "BUNDLE"}), (("--keys",), {"type": Path, "metavar": "DIR"})]
JOB = [(("job",), {"type": Path, "metavar": "JOB.json"})]
SLOT = {"choices": SLOTS}
COMMANDS: dict[str, tuple[Callable[[Place, Any], Any], str, list[Any]]] = {
    "probe": (_probe, "what this device has", []),
    "have": (lambda place, asked: have(place, asked.digests), "which files are there", [DIGESTS]),
    "put": (lambda place, asked: put(place, asked.digests), "take files that have come", [DIGESTS]),
    "drop": (lambda place, asked: drop(place, asked.ids), "remove jobs", [(("ids",), {"nargs": "+"})]),
    "stop": (_stop, "end jobs that are at work, and remove them", [(("ids",), {"nargs": "+"})]),
    "tidy": (_tidy, "remove what no command asked for in a while; slots stay",
             [(("--days",), {"type": _days, "default": 30.0})]),
    "keys": (_keys, "whom this device trusts",
             [(("--remove",), {"nargs": "+", "default": [], "metavar": "KEY", "help": "id, name or file"})]),
    "verify": (_verify, "check a bundle", BUNDLE),
    "install": (_install, "verify a bundle, try it, and use it",
                [*BUNDLE, (("--slot",), {"choices": ("auto", *SLOTS), "default": "auto"})]),
    "rollback": (_rollback, "use the other slot again", [(("--to",), SLOT)]),
    "status": (_status, "what is in use", []),
    "golden": (_golden, "replay golden answers",
               [(("job",), {"type": Path, "nargs": "?", "metavar": "JOB.json"}), (("--slot",), SLOT)]),
    **{name: (_job, told, JOB) for name, told in JOBS.items()},
}
