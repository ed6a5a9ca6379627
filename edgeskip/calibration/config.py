"""What a user may choose about a calibration, apart from model and corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.lists import parse_numbers

DType = Literal["float32", "bfloat16", "float16"]
_SHORTEST = 16  # tokens of a window, where they follow from few --tokens
DTYPES: tuple[DType, ...] = get_args(DType)


@dataclass(frozen=True)
class CalibrationConfig:
    """`context` None = 1024, or what the model holds; `decode_tokens` 0 = no decode phase.

    `exits` are the exit layers to calibrate, ascending, each once.
    """

    tokens: int = 16384
    context: int | None = None
    decode_tokens: int = 1024
    seed: int = 0
    device: str = "cpu"
    dtype: DType = "float32"
    exits: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, value in (("--tokens", self.tokens), ("--context", self.context)):
            if value is not None and value < 1:
                raise EdgeSkipError(f"{name} {value} is not a number of tokens: give at least 1")
        if self.context is not None and self.tokens < self.context:
            raise EdgeSkipError(
                f"--tokens {self.tokens} do not fill one window of --context {self.context}: give more tokens or a "
                "smaller context"
            )
        if self.decode_tokens < 0:
            raise EdgeSkipError(f"--decode-tokens {self.decode_tokens} is negative: give 0 for no decode phase")
        if self.dtype not in DTYPES:
            raise EdgeSkipError(f"--dtype {self.dtype} is unknown: choose one of {', '.join(DTYPES)}")

    def check_exits(self, num_blocks: int) -> None:
        """EdgeSkipError for an exit layer that a model of `num_blocks` blocks does not have."""
        for layer in self.exits:
            if not 1 <= layer < num_blocks:
                raise EdgeSkipError(
                    f"--exits {layer} is not an exit layer; a model of {num_blocks} blocks has 1 … {num_blocks - 1}"
                )

    def context_for(self, max_positions: int) -> int:
        """Return tokens per window for a model that holds `max_positions`.

        Raises EdgeSkipError if they are too many.
        """
        if self.context is not None and self.context > max_positions:
            raise EdgeSkipError(f"--context {self.context} is longer than the model's {max_positions} positions")
        return self.context or min(1024, max_positions, max(self.tokens, _SHORTEST))


def parse_exits(text: str) -> tuple[int, ...]:
    """Return the exit layers in `4,6,8`, ascending, each once; raise EdgeSkipError for anything else."""
    return tuple(sorted(parse_numbers(text, "--exits", example="4,6,8")))
