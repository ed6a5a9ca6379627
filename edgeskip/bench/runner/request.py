"""The request to measure one round of one cell, for a process, a remote machine or a browser. Data only."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from edgeskip.bench.schema import BenchCell, Record


class BenchPrompt(Record):
    """A real prompt: text for a machine with the tokenizer, token ids for a browser; both are the same prompt."""

    name: str
    text: str
    ids: list[int] | None = None


class SyntheticTest(Record):
    """A test on random tokens: `tokens` as one prompt (pp) or one by one (tg), with `depth` tokens before them."""

    __test__: ClassVar[bool] = False  # not one of pytest's

    test: Literal["pp", "tg"]
    tokens: int = Field(ge=1)
    depth: int = Field(ge=0)

    @property
    def name(self) -> str:
        """As llama-bench writes it: pp512, tg128 @ d2048."""
        return f"{self.test}{self.tokens}" + (f" @ d{self.depth}" if self.depth else "")


class RoundRequest(Record):
    """One round of one cell."""

    path: str = Field(description="of the artifact, on the device")
    cell: BenchCell
    round: int
    tests: list[SyntheticTest]
    prompts: list[BenchPrompt]
    max_tokens: int
    seed: int = 0
    allow_fallback: bool = False
    chat_options: dict[str, Any] = Field(default_factory=dict)
