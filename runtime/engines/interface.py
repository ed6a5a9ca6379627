"""The interfaces of engines: `Engine`, and what some of them can do besides (`DraftingEngine`, `OnlineEngine`).

An engine runs one model over one sequence with its own KV cache. To add one, write a folder `engines/NAME/` with

- a class that derives from `EngineBase` (or `DraftingEngineBase`) of `engines/base.py` and implements `Engine`,
- a module `opener` with `open_artifact(path, options) -> OpenedArtifact`,

and list the opener in `runtime/loader.py`. Nothing else has to change: sessions, sampling and every way of decoding use
these interfaces only. An engine must stay usable if Ctrl-C interrupts any of its methods at any place; the tests
`tests/runtime/engines/test_interruptions_*.py` do that.
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

EngineName = Literal["onnxruntime", "llama.cpp"]


class Engine(Protocol):
    """One model over one sequence, batch 1. Token ids are int64 [n], logits float32 [n, vocab_size]."""

    @property
    def name(self) -> EngineName:
        """The inference runtime below."""

    @property
    def provider(self) -> str:
        """The processor that really runs, e.g. `cpu`, `cuda`."""

    @property
    def threads(self) -> int:
        """Threads it computes with."""

    @property
    def vocab_size(self) -> int:
        """Columns of the logits; every token id is below it."""

    @property
    def context_length(self) -> int:
        """Most tokens that the sequence can hold."""

    @property
    def length(self) -> int:
        """Tokens in the KV cache."""

    @property
    def run_s(self) -> float:
        """Seconds inside the runtime since loading, all steps together; the rest of a step's time is Python's."""

    def reserve(self, tokens: int) -> None:
        """Make room for a sequence of `tokens` tokens in all, so that no step allocates."""

    def step(self, tokens: NDArray[np.int64], *, logits: int = 1) -> NDArray[np.float32]:
        """Append tokens and run the model over them. A prefill is a step at length 0.

        Args:
            tokens: Token ids int64 [n], n ≥ 1.
            logits: Of how many of the last positions to return logits; 0 = all n.

        Returns:
            Logits float32 [logits, vocab_size]. The next step may overwrite the array.

        Raises:
            EdgeSkipError: If length + n > context_length, or an id is not the model's.
        """

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens; costs nothing."""

    def close(self) -> None:
        """Free the model's memory; nothing else may be called afterwards."""


@runtime_checkable
class DraftingEngine(Engine, Protocol):
    """An engine that also drafts: part of the model runs ahead, and the whole model follows over what it has not seen.

    `length` counts every token that the draft has run. A prefill is a `step`; speculation is `draft` and `verify`.
    """

    @property
    def drafts(self) -> int:
        """Number of drafts to choose from (exits), the cheapest first; at least 1."""

    @property
    def draft_tokens(self) -> NDArray[np.int64] | None:
        """Token id of each column of the draft's logits [V']; None if these cover the whole vocabulary."""

    @property
    def drafted(self) -> int:
        """Tokens at the end of the sequence that the draft has run and the whole model has not."""

    def draft(self, tokens: NDArray[np.int64], *, which: int = 0) -> NDArray[np.float32]:
        """Append tokens to the draft alone.

        Args:
            tokens: Token ids int64 [n]; n may be 0 if a cheaper draft has run tokens that this one has not, which it
                then runs.
            which: Index of the draft.

        Returns:
            The draft's logits float32 [1, V'] after the last token. The next call may overwrite the array.
        """

    def verify(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Append tokens, and run the whole model over them and all that was drafted.

        Afterwards `drafted` is 0. What draft and model share of a token is not computed again.

        Args:
            tokens: Token ids int64 [n], n ≥ 0; with what was drafted, at least one.

        Returns:
            Logits float32 [drafted + n, vocab_size] of all of them. The next call may overwrite the array.
        """


@runtime_checkable
class OnlineEngine(Engine, Protocol):
    """An engine whose G FFNs can be left out one by one while it runs, and watched. At first none is left out."""

    @property
    def ffns(self) -> tuple[str, ...]:
        """Names of the FFNs in execution order, `ffn.0` …"""

    def watch(self, wanted: bool) -> None:
        """Set whether the steps from now on measure what `importance` returns."""

    def importance(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return cosine(x, y) [G] and ‖y‖/‖x‖ [G] for the last watched step's last token.

        x is the hidden state before the FFN and y after it. The next step overwrites the arrays.
        """

    def gate(self, skip: NDArray[np.bool_], scale: NDArray[np.float32]) -> None:
        """Replace each FFN where `skip` [G] is true by x ← scale·x from the next step on; run all others."""
