"""The loop of a decode plan: one model writes the first tokens of an answer, then one that skips more takes over.

The second model takes over the first one's KV cache. Calibration chose what it skips, not the request.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgeskip.artifacts.gguf.manifest import GgufManifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.decoding.autoregressive import decode
from edgeskip.runtime.decoding.interface import DecodeRequest, Decoding
from edgeskip.runtime.engines.interface import Engine
from edgeskip.runtime.generation import FinishReason, OnlineStats
from edgeskip.runtime.online import Online


@runtime_checkable
class HandoverEngine(Engine, Protocol):
    """An engine of two models with interchangeable KV caches.

    It begins with the first model, and returns to it after `truncate(0)`.
    """

    @property
    def handed_over(self) -> bool:
        """Whether the second model runs."""

    @property
    def handover_s(self) -> float:
        """Seconds that the last handover took, without opening the second model; 0 before any."""

    def prepare(self) -> None:
        """Open the second model now, so that `hand_over` does not have to."""

    def hand_over(self) -> None:
        """Continue with the second model from the next step on, after the whole sequence so far."""


class HandoverDecoding(Decoding):
    """One generation: the first model runs `window` decode steps, then the second takes over.

    Args:
        engine: The two models.
        window: Decode steps by the first one.
        skipped: Names of the FFNs that the second one leaves out.
    """

    strategy = "online"

    def __init__(self, engine: HandoverEngine, window: int, skipped: tuple[str, ...]) -> None:
        super().__init__(engine)
        self._models = engine
        self._window = window
        self._skipped = skipped
        self._steps = [0, 0]  # by the first model, by the second

    def prefill(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        self._models.prepare()  # opens a file, which must not delay a token within the answer
        return super().prefill(tokens)

    def decode(self, request: DecodeRequest) -> Generator[int, None, FinishReason]:
        engine, begin = self._models, self._models.length
        tokens = decode(engine, request)
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

    def online(self) -> OnlineStats:
        """Return the steps of each model; nothing is measured, so there is neither threshold nor similarity."""
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
    """Return the decoding of one generation with the second file that `manifest` names.

    Raises:
        EdgeSkipError: If the file has no decode plan, the second file is missing, or `policy` asks for a threshold or
            for watching, which need gates.
    """
    if manifest.decode is None:
        raise EdgeSkipError("this file has no decode plan: export one with  edgeskip export --target gguf --online")
    if not isinstance(engine, HandoverEngine):
        raise EdgeSkipError(f"{manifest.decode}, which takes over while decoding, is missing: put it beside the file")
    if policy.threshold is not None:
        raise EdgeSkipError("a GGUF file skips the FFNs that its export chose, not by a threshold: leave out β")
    window = policy.window or manifest.window or 1
    if not policy.gate:
        raise EdgeSkipError("a GGUF file cannot measure FFNs while it runs: use strategy plain, or an ONNX artifact")
    return HandoverDecoding(engine, window, manifest.decode_skipped)
