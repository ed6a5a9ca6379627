"""The loop of a decode plan: the first tokens of an answer by one model, the rest by one that skips more, which takes
over the KV cache. What is skipped was chosen by calibration, not by request."""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgeskip.artifacts.gguf.manifest import GgufManifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.decoding.autoregressive import History, decode
from edgeskip.runtime.engines.interface import Engine
from edgeskip.runtime.engines.prefill import prefill
from edgeskip.runtime.generation import FinishReason, OnlineStats, SpeculationStats, Strategy
from edgeskip.runtime.online import Online
from edgeskip.runtime.sampling import TokenSampler


@runtime_checkable
class HandoverEngine(Engine, Protocol):
    """An engine of two models with interchangeable KV caches. It begins with the first, and so it does again after
    `truncate(0)`."""

    @property
    def handed_over(self) -> bool:
        """Whether the second model runs."""

    @property
    def handover_s(self) -> float:
        """Seconds the last handover took, without opening the second model; 0 before any."""

    def prepare(self) -> None:
        """Opens the second model now, so that `hand_over` need not."""

    def hand_over(self) -> None:
        """The second model goes on from the next step, after all the sequence so far."""


class HandoverDecoding:
    """One generation: `window` decode steps by the first model, then the second. `skipped` are the FFNs that the
    second leaves out, by name."""

    def __init__(self, engine: HandoverEngine, window: int, skipped: tuple[str, ...]) -> None:
        self._engine = engine
        self._window = window
        self._skipped = skipped
        self._steps = [0, 0]  # by the first model, by the second

    @property
    def strategy(self) -> Strategy:
        return "online"

    def prefill(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        self._engine.prepare()  # a file to open, no part of the answer's own time between two tokens
        return prefill(self._engine, tokens)

    def decode(
        self,
        logits: NDArray[np.float32],
        history: History,
        sampler: TokenSampler,
        *,
        max_tokens: int | None,
        end_tokens: frozenset[int],
    ) -> Generator[int, None, FinishReason]:
        engine, begin = self._engine, self._engine.length
        tokens = decode(engine, logits, history, sampler, max_tokens=max_tokens, end_tokens=end_tokens)
        while True:
            try:
                token = next(tokens)
            except StopIteration as end:
                reason: FinishReason = end.value
                return reason
            finally:
                self._count(engine.length - begin)
            yield token
            if self._steps[0] == self._window:
                engine.hand_over()

    def speculation(self, decode_s: float, decode_tokens_per_s: float) -> SpeculationStats | None:
        return None

    def online(self) -> OnlineStats:
        """Nothing is measured of the request, so there is neither a threshold nor a similarity."""
        return OnlineStats(
            window=self._window,
            threshold=None,
            watched_steps=self._steps[0],
            gated_steps=self._steps[1],
            gated=self._skipped if self._steps[1] else (),
            similarity={},
            scale={},
        )

    def _count(self, steps: int) -> None:
        first = min(steps, self._window)
        self._steps = [first, steps - first]


def handover_decoding(engine: Engine, policy: Online, manifest: GgufManifest) -> HandoverDecoding:
    """For one generation with the file that `manifest` names. EdgeSkipError where the file is not there, or `policy`
    asks for what it cannot do."""
    if manifest.decode is None:
        raise EdgeSkipError("this file has no decode plan: export one with  edgeskip export --target gguf --online")
    if not isinstance(engine, HandoverEngine):
        raise EdgeSkipError(f"{manifest.decode} takes over while decoding and is not there: put it beside the file")
    if policy.threshold is not None:
        raise EdgeSkipError("a GGUF file skips the FFNs that its export named, by no threshold: leave β out")
    window = policy.window or manifest.window or 1
    if not policy.gate:
        raise EdgeSkipError("a GGUF file measures no FFN while it runs: use strategy plain, or an ONNX artifact")
    return HandoverDecoding(engine, window, manifest.decode_skipped)
