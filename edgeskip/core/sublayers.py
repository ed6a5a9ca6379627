"""Names and order of sublayers: attn.0, ffn.0, attn.1, … A model with M blocks has 2M of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.whole_number import whole_number

Kind = Literal["attn", "ffn"]
KINDS: tuple[Kind, Kind] = ("attn", "ffn")


@dataclass(frozen=True, order=True)
class Sublayer:
    """One half of a transformer block with its norm and residual add; sorts in execution order."""

    block: int
    kind: Kind  # "attn" < "ffn", so the field order is the execution order

    def __str__(self) -> str:
        return f"{self.kind}.{self.block}"

    @property
    def index(self) -> int:
        """Position among the model's 2M sublayers."""
        return 2 * self.block + KINDS.index(self.kind)


def sublayers_of(num_blocks: int) -> tuple[Sublayer, ...]:
    """Return all 2M sublayers of a model with `num_blocks` blocks, in execution order."""
    return tuple(Sublayer(block, kind) for block in range(num_blocks) for kind in KINDS)


def parse_sublayer(name: str, num_blocks: int) -> Sublayer:
    """`"attn.7"` → Sublayer(7, "attn"); raises EdgeSkipError if the model has no such sublayer."""
    match = re.fullmatch(r"(attn|ffn)\.([0-9]+)", name.strip())
    block = whole_number(match[2]) if match else None
    if match is None or block is None or block >= num_blocks:
        raise EdgeSkipError(
            f"unknown sublayer {name.strip()!r:.60}: this model has attn.0 … attn.{num_blocks - 1} "
            f"and ffn.0 … ffn.{num_blocks - 1}"
        )
    kind: Kind = "attn" if match[1] == "attn" else "ffn"
    return Sublayer(block, kind)
