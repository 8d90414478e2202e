"""What is known about the values that flow through a network: the one thing calibration and QAT hand to the graph side.

On disk it is `ranges.json`; activations are keyed by tensor name, weights by initializer name.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolchain.errors import OnnxError
from toolchain.files import write_text

FORMAT = "toolchain.ranges/1"


@dataclass(frozen=True)
class ActivationRange:
    """Smallest and largest value seen, and `amax`: the largest magnitude kept before clipping (0: always zero).

    clips: training clipped at amax, so every engine must; else one whose codes reach further may keep more.
    """

    min: float
    max: float
    amax: float
    clips: bool = False


@dataclass(frozen=True)
class Ranges:
    """activations: tensor name -> range. weights: initializer name -> amax per output channel (absent: its max |w|).

    blocks: initializer name -> amax per output channel and INT4 block, where QAT learned them; the file holds them only
    then. A layer whose weights the INT4 engine stores as INT8 has one block. method: how they were found, in words
    (`entropy on 512 images`, `qat`).
    """

    activations: dict[str, ActivationRange]
    weights: dict[str, list[float]] = field(default_factory=dict)
    method: str = ""
    blocks: dict[str, list[list[float]]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write JSON with sorted keys: equal ranges give equal bytes, and the file appears whole or not at all."""
        data = {
            "format": FORMAT,
            "method": self.method,
            "activations": {name: {"min": r.min, "max": r.max, "amax": r.amax, **({"clips": True} if r.clips else {})}
                            for name, r in self.activations.items()},
            "weights": self.weights,
            **({"blocks": self.blocks} if self.blocks else {}),
        }
        write_text(path, json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n")

    @staticmethod
    def load(path: Path) -> Ranges:
        """Read what `save` wrote. Raises OnnxError when the file is missing, not ours, or holds an impossible range."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise ValueError(f"format is {data['format']!r}")
            activations = {name: _checked(name, **r) for name, r in data["activations"].items()}
            weights = {name: [float(a) for a in amax] for name, amax in data["weights"].items()}
            blocks = {name: [[float(a) for a in row] for row in rows] for name, rows in data.get("blocks", {}).items()}
            return Ranges(activations, weights, str(data["method"]), blocks)
        except FileNotFoundError:
            raise OnnxError(f"{path}: no such file; calibrate first") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as wrong:
            raise OnnxError(f"{path}: not a ranges file ({wrong}); expected {FORMAT}; calibrate again") from None


def _checked(name: str, clips: bool = False, **values: Any) -> ActivationRange:
    if not isinstance(clips, bool):
        raise ValueError(f"{name}: clips {clips!r}, expected true or nothing")
    found = ActivationRange(**{key: float(value) for key, value in values.items()}, clips=clips)
    if not (math.isfinite(found.amax) and found.amax >= 0 and found.min <= found.max):
        raise ValueError(f"{name}: min {found.min}, max {found.max}, amax {found.amax}")
    return found
