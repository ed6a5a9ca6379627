"""What a user may choose about a calibration, apart from model and corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from edgeskip.errors import EdgeSkipError

DType = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[DType, ...] = get_args(DType)


@dataclass(frozen=True)
class Settings:
    """`context` None = 1024, or what the model holds; `decode_tokens` 0 = no decode phase."""

    tokens: int = 16384
    context: int | None = None
    decode_tokens: int = 1024
    seed: int = 0
    device: str = "cpu"
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        for name, value in (("--tokens", self.tokens), ("--context", self.context)):
            if value is not None and value < 1:
                raise EdgeSkipError(f"{name} {value} is not a number of tokens: give at least 1")
        if self.decode_tokens < 0:
            raise EdgeSkipError(f"--decode-tokens {self.decode_tokens} is negative: give 0 for no decode phase")
        if self.dtype not in DTYPES:
            raise EdgeSkipError(f"--dtype {self.dtype} is unknown: choose one of {', '.join(DTYPES)}")

    def context_for(self, max_positions: int) -> int:
        """Tokens per window for a model that holds `max_positions`; EdgeSkipError where they are too many."""
        if self.context is not None and self.context > max_positions:
            raise EdgeSkipError(f"--context {self.context} is longer than the model's {max_positions} positions")
        return self.context or min(1024, max_positions)
