"""Run twice by test_crd.py, as rank 0 and 1 of a gloo group: each takes half of every batch, then writes its banks."""

from __future__ import annotations

import sys
from pathlib import Path

from crd_parts import step, term_of
from crd_reference import case
from safetensors.torch import save_file
from torch import distributed


def main(folder: Path, rank: int) -> None:
    """Two steps; the state that this rank ends with."""
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    small = case(negatives=8)
    term = term_of(small)
    for number in range(2):
        step(term, small, number, slice(2 * rank, 2 * rank + 2))
    save_file(term.banks.state_dict(), folder / f"rank{rank}.safetensors")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
