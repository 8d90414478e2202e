"""What a runtime says it runs: the answer of every reader, and the names that fusions leave behind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

# "fused /conv1/Conv", "/conv1/Conv_token_7", "InsertedPrecisionFreeCast_/relu/Relu_output_0_nchwc": ONNX Runtime's;
# "/conv1/Conv/WithoutBiases": OpenVINO's
PREFIXES = re.compile(r"^(?:fused |InsertedPrecisionFreeCast_)+")
SUFFIXES = re.compile(r"(?:_token_\d+|_nchwc|_nhwc|/duplicated|/WithoutBiases|/\w+Fusion)+$")


class Named(Protocol):
    """What a kernel can be found for."""

    @property
    def aliases(self) -> Sequence[str]:
        """Names that its kernel may bear, nearest first."""


@dataclass(frozen=True)
class Ran:
    """One layer as the engine runs it. arithmetic: "int8", "fp32", …; None: it cannot be told, and `why` says why."""

    arithmetic: str | None
    why: str = ""


def plain_name(name: str) -> str:
    """The name that a node or tensor had in the file."""
    return SUFFIXES.sub("", PREFIXES.sub("", name))


def assigned(
    kernels: Sequence[tuple[Iterable[str], Mapping[str, Any]]], layers: Mapping[str, Named]
) -> dict[str, Mapping[str, Any]]:
    """Layer name -> its kernel's record, each kernel given to one layer: that which its name is nearest to.

    kernels: (names, record). layers: layer name -> what bears aliases, nearest first. A kernel that is as near to
    several layers without another (an Add's, of the two that it adds) goes to none of them, and to no farther one.
    """
    places: dict[str, list[tuple[str, int]]] = {}
    for layer, known in layers.items():
        for rank, alias in enumerate(known.aliases):
            places.setdefault(alias, []).append((layer, rank))
    waiting: list[tuple[int, int, set[str]]] = []
    for number, (names, _) in enumerate(kernels):
        told = {plain_name(name) for name in names} | set(names)
        near = [place for name in told for place in places.get(name, ())]
        nearest = min((rank for _, rank in near), default=0)
        waiting.append((nearest, number, {layer for layer, rank in near if rank == nearest}))
    waiting.sort(key=lambda one: one[:2])
    found: dict[str, Mapping[str, Any]] = {}
    while sure := next((one for one in waiting if len(one[2] - found.keys()) == 1), None):
        waiting.remove(sure)
        (layer,) = sure[2] - found.keys()
        found[layer] = kernels[sure[1]][1]
    return found
