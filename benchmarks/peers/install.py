"""One environment per peer, so that their pins cannot meet ours: `python benchmarks/peers/install.py FOLDER [PEER …]`.

Each is FOLDER/PEER, a virtual environment with the versions in requirements/PEER.txt. What this interpreter has
already (torch is gigabytes) is not installed again: a .pth file lets an environment fall back on it, behind its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HERE = Path(__file__).parent
PEERS = tuple(sorted(path.stem for path in (HERE / "requirements").glob("*.txt")))
SELF_CONTAINED = ("onnxruntime",)  # small enough to need nothing of ours


def install(folder: Path, peer: str) -> None:
    """Make (or bring up to date) the environment of `peer`. Raises CalledProcessError when pip fails."""
    home = folder / peer
    venv.create(home, with_pip=True)
    if peer not in SELF_CONTAINED:
        inner = next((home / "lib").glob("python*/site-packages"))
        (inner / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    requirements = HERE / "requirements" / f"{peer}.txt"
    subprocess.run([home / "bin" / "python", "-m", "pip", "install", "--quiet", "-r", requirements], check=True)


def main() -> int:
    """Install the peers asked for; say which failed, and go on with the next."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("peers", nargs="*", default=PEERS, metavar="PEER", help=f"default: {', '.join(PEERS)}")
    args = parser.parse_args()
    failed = []
    for peer in args.peers:
        try:
            install(args.folder, peer)
            print(f"{peer}: ready", flush=True)
        except subprocess.CalledProcessError as error:
            failed.append(peer)
            print(f"{peer}: pip ended with {error.returncode}; see its message above", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
