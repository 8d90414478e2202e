"""What each layer of a mixed engine may take, and what each choice loses and costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from toolchain.recipe.quantize import Int4, Int8


@dataclass(frozen=True)
class Table:
    """What each layer would lose (nats; None: nothing was scanned) and take (bytes), by precision, and who is fixed.

    fixed: layer -> the precision that the recipe names for it. barred: precision -> layers that its section keeps
    float. small: layers of too few weights per output for INT4, which store INT8 instead. rest: float of the others.
    """

    losses: Mapping[str, Mapping[str, float]] | None
    bytes: Mapping[str, Mapping[str, int]]
    fixed: Mapping[str, str]
    barred: Mapping[str, Collection[str]] = field(default_factory=dict)
    small: Collection[str] = ()
    rest: str = "fp32"

    def able(self, name: str, precisions: Sequence[str]) -> list[str]:
        """What the layer may take of these, in their order; where that is none, the float its section leaves it."""
        if name in self.fixed:
            return [self._stored(name, self.fixed[name])]
        able = [self._stored(name, each) for each in precisions if name not in self.barred.get(each, ())]
        return list(dict.fromkeys(able)) or [self.rest]

    def loss(self, name: str, precision: str) -> float | None:
        """Predicted, in nats; None: nothing was scanned.

        Of INT8 weights alone no scan tells: what INT8 loses, of activations too, is the bound that counts. A small
        layer's were scanned as what INT4 makes of it.
        """
        if self.losses is None:
            return None
        if precision == "int8_weight_only":
            return self.losses[name]["int4" if name in self.small else "int8"]
        return self.losses[name].get(precision, 0.0) if precision in ("fp32", "fp16") else self.losses[name][precision]

    def _stored(self, name: str, precision: str) -> str:
        return "int8_weight_only" if precision == "int4" and name in self.small else precision


def barred(names: Sequence[str], int8: Int8, int4: Int4) -> dict[str, set[str]]:
    """precision -> layers that the section of INT8, which `int8_weight_only` follows too, or of INT4 keeps float."""
    ends = {names[0], names[-1]}
    spared = {kind: {*section.keep_float, *(ends if section.first_last == "float" else ())}
              for kind, section in (("int8", int8), ("int4", int4))}
    return {**spared, "int8_weight_only": spared["int8"]}
