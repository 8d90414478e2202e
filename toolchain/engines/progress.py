"""How much of nested phases is done: TensorRT reports phases within phases, a bar wants one number."""

from __future__ import annotations


class Fraction:
    """Share done, 0 to 1, never falling. A phase of n steps inside step k of its parent refines that step."""

    def __init__(self) -> None:
        self.phases: dict[str, tuple[str | None, int, int]] = {}  # name -> (parent, steps, steps done)
        self.done = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Phase `name` begins, with `steps` steps."""
        self.phases[name] = (parent or None, max(1, steps), 0)

    def step(self, name: str, step: int) -> None:
        """Step number `step`, counted from 0, of `name` is complete."""
        if name in self.phases:
            parent, steps, _ = self.phases[name]
            self.phases[name] = (parent, steps, min(step + 1, steps))
            self._update(name)

    def finish(self, name: str) -> None:
        """Phase `name` is over."""
        parent = self.phases.pop(name, (None, 1, 1))[0]
        if parent is None:
            self.done = 1.0

    def _update(self, name: str) -> None:
        inner, at = 0.0, name
        while at in self.phases:
            parent, steps, done = self.phases[at]
            inner = min(1.0, (done + inner) / steps)
            if parent is None:
                self.done = max(self.done, inner)
                return
            at = parent
