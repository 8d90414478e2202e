"""Where labels go on a plot so that none covers a mark or another label: greedy, deterministic, without libraries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

LETTER = 8.0  # mean width of a letter at 12 px bold in a wide font (DejaVu Sans), in SVG units
HEIGHT = 15.0
DISTANCES = (4.0, 14.0, 26.0, 42.0, 62.0, 86.0)
DIRECTIONS = ((1, 0), (1, -1), (-1, -1), (1, 1), (-1, 1), (-1, 0), (0, -1), (0, 1))


class Box(NamedTuple):
    """A rectangle in SVG units (y grows downwards)."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Area shared with `other`, 0 when they only touch."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)

    def outside(self, frame: Box) -> float:
        """Area that lies outside `frame`."""
        whole = (self.right - self.left) * (self.bottom - self.top)
        return whole - self.overlap(frame)


class Spot(NamedTuple):
    """A label's place: its text position and anchor, its box, and a line back to its mark when that is far."""

    x: float
    y: float
    anchor: str
    box: Box
    leader: tuple[float, float, float, float] | None


def _candidate(text: str, centre: tuple[float, float], radius: float, direction: tuple[int, int], gap: float) -> Spot:
    (x, y), (dx, dy), width = centre, direction, LETTER * len(text)
    diagonal = 0.75 if dx and dy else 1.0
    at_x, at_y = x + dx * (radius + gap) * diagonal, y + dy * (radius + gap) * diagonal
    left = at_x if dx > 0 else at_x - width if dx < 0 else at_x - width / 2
    top = at_y - HEIGHT / 2 if dy == 0 else at_y if dy > 0 else at_y - HEIGHT
    box = Box(left, top, left + width, top + HEIGHT)
    anchor, text_x = ("start", left) if dx > 0 else ("end", left + width) if dx < 0 else ("middle", at_x)
    touch = (min(max(x, box.left), box.right), min(max(y, box.top), box.bottom))
    return Spot(text_x, top + HEIGHT * 0.76, anchor, box, (x, y, *touch) if gap > DISTANCES[1] else None)


def place(labels: Sequence[str], centres: Sequence[tuple[float, float]], radii: Sequence[float],
          marks: Sequence[Box], whiskers: Sequence[Box], frame: Box) -> list[Spot]:
    """One Spot a label. Costs: leaving the frame, covering a label, a mark, a whisker, then distance."""
    taken: list[Box] = []
    spots = []
    for text, centre, radius in zip(labels, centres, radii, strict=True):
        def cost(rank: int, spot: Spot) -> float:
            covers = [weight * sum(spot.box.overlap(box) for box in boxes)
                      for weight, boxes in ((40, taken), (12, marks), (4, whiskers))]
            return 50 * spot.box.outside(frame) + sum(covers) + rank

        options = [_candidate(text, centre, radius, d, gap) for gap in DISTANCES for d in DIRECTIONS]
        best = min(enumerate(options), key=lambda option: cost(*option))[1]
        taken.append(best.box)
        spots.append(best)
    return spots
