"""The interface every engine has: prefill, step, truncate over one sequence with its own KV cache."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

EngineName = Literal["onnxruntime", "llama.cpp"]


class Engine(Protocol):
    """One sequence, batch 1. Token ids are int64 [n]; logits float32 [n, vocab_size]."""

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
    def vocab_size(self) -> int: ...

    @property
    def context_length(self) -> int:
        """Most tokens the sequence can hold."""

    @property
    def length(self) -> int:
        """Tokens now in the KV cache."""

    @property
    def run_s(self) -> float:
        """Seconds spent inside the runtime since loading, all steps together; the rest of a step is Python's share."""

    def reserve(self, tokens: int) -> None:
        """Makes room for a sequence of `tokens` tokens in all, so that no step allocates."""

    def step(self, tokens: NDArray[np.int64], *, logits: int = 1) -> NDArray[np.float32]:
        """Appends n ≥ 1 tokens; logits of the last `logits` positions (0 = all n). Prefill is a step on length 0.

        EdgeSkipError where length + n > context_length. The returned array may be overwritten by the next step.
        """

    def truncate(self, length: int) -> None:
        """Forgets all but the first `length` tokens; costs nothing."""

    def close(self) -> None:
        """Frees the model's memory; nothing else may be called afterwards."""


@runtime_checkable
class DraftingEngine(Engine, Protocol):
    """An engine that also drafts: part of the model runs ahead, the whole model follows over what it has not seen.

    `length` counts every token the draft has run. A prefill is a `step`; speculation is `draft` and `verify`.
    """

    @property
    def drafts(self) -> int:
        """How many drafts it has to choose from (exits), the cheapest first; at least 1."""

    @property
    def draft_tokens(self) -> NDArray[np.int64] | None:
        """Token id of each column of the draft's logits [V']; None where these cover the whole vocabulary."""

    @property
    def drafted(self) -> int:
        """Tokens at the end of the sequence that the draft has run and the whole model has not."""

    def draft(self, tokens: NDArray[np.int64], *, which: int = 0) -> NDArray[np.float32]:
        """Appends n tokens to the draft alone; its logits [1, V'] after the last of them.

        n may be 0 where a cheaper draft has run tokens that this one has not: it then goes on from that.

        The returned array may be overwritten by the next call.
        """

    def verify(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Appends n ≥ 0 tokens and runs the whole model over these and all that was drafted, at least one token.

        Logits [drafted + n, vocab_size] of all of them; afterwards `drafted` is 0. What the draft computed of a token
        is not computed again where the two share it. The returned array may be overwritten by the next call.
        """


@runtime_checkable
class OnlineEngine(Engine, Protocol):
    """An engine whose G FFNs can be left out one by one while it runs, and watched meanwhile. At first none is."""

    @property
    def ffns(self) -> tuple[str, ...]:
        """The FFNs' names in execution order, `ffn.0` …"""

    def watch(self, wanted: bool) -> None:
        """Whether the steps from now on measure what `importance` tells."""

    def importance(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cosine(x, y) [G] and ‖y‖/‖x‖ [G] of the last watched step's last token, x the stream before the FFN and y
        after it. The next step overwrites the arrays."""

    def gate(self, skip: NDArray[np.bool_], scale: NDArray[np.float32]) -> None:
        """From the next step on, x ← scale·x in place of each FFN where `skip` [G] is true; all the others run."""
