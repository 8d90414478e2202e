"""A network for the tests of scanning: numpy alone, so that processes start quickly."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from toolchain.sensitivity.scan import Facts, Logits, Setting


class Shifted:
    """Three layers; harming one by a ratio pulls the logits of 40 images of four classes towards its own noise."""

    shared = False

    def __init__(self, calls: Path | None) -> None:
        self.calls, rng = calls, np.random.default_rng(0)
        self.labels = np.arange(40) % 4
        self.logits = (4 * np.eye(4)[self.labels] + rng.normal(size=(40, 4))).astype(np.float32)
        self.noise = {name: rng.normal(scale=scale, size=(40, 4)) for name, scale in (("a", 2), ("b", 6), ("c", 20))}

    def facts(self) -> list[Facts]:
        return [Facts(name, 10, None) for name in self.noise]

    def removable(self) -> None:
        return None

    def baseline(self) -> Logits:
        return self.logits

    def harmed(self, layer: str, setting: Setting) -> Logits:
        if self.calls:
            with open(self.calls, "a") as file:
                file.write(f"{layer} {setting}\n")
        return (self.logits + float(setting) * self.noise[layer]).astype(np.float32)
