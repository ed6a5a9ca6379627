"""The loop of online skipping: watch the first decode steps, then leave out the FFNs that did little."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from edgeskip.artifacts.manifest import OnlineRecord
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.decoding.autoregressive import decode
from edgeskip.runtime.decoding.interface import DecodeRequest, Decoding
from edgeskip.runtime.engines.interface import Engine, OnlineEngine
from edgeskip.runtime.generation import FinishReason, OnlineStats
from edgeskip.runtime.online import Online

Measured = NDArray[np.float32]


class OnlineDecoding(Decoding):
    """One generation. All gates are open before it, and again after it, however it ends.

    Args:
        engine: Runs the model; its FFNs have gates.
        policy: What the user chose.
        record: What the artifact's manifest says, for what `policy` leaves open.
    """

    strategy = "online"

    def __init__(self, engine: OnlineEngine, policy: Online, record: OnlineRecord) -> None:
        super().__init__(engine)
        self._gated_engine = engine
        self._window = policy.window or record.window
        self._threshold = record.threshold if policy.threshold is None else policy.threshold
        self._gates = policy.gate
        self._length = 0  # of the sequence at the last call of `_observe_step`
        self._similarity: list[Measured] = []
        self._ratio: list[Measured] = []
        self._gated: NDArray[np.bool_] = np.zeros(len(engine.ffns), np.bool_)
        self._gated_steps = 0

    @property
    def measured(self) -> tuple[Measured, Measured]:
        """Similarity and norm ratio of every watched step, each float32 [steps, G], FFNs in the engine's order."""
        shape = (-1, len(self._gated_engine.ffns))
        similarity, ratio = (np.array(rows, np.float32).reshape(shape) for rows in (self._similarity, self._ratio))
        return similarity, ratio

    def prefill(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        self._open_all_gates()
        return super().prefill(tokens)

    def decode(self, request: DecodeRequest) -> Generator[int, None, FinishReason]:
        engine, self._length = self._gated_engine, self._gated_engine.length
        tokens = decode(engine, request)
        engine.watch(True)
        try:
            while True:
                try:
                    token = next(tokens)
                except StopIteration as end:
                    reason: FinishReason = end.value
                    return reason
                finally:
                    self._observe_step()
                yield token
        finally:
            self._open_all_gates()

    def online(self) -> OnlineStats:
        similarity, ratio = self._means()
        names = self._gated_engine.ffns
        return OnlineStats(
            window=self._window,
            threshold=self._threshold,
            watched_steps=len(self._similarity),
            gated_steps=self._gated_steps,
            gated=tuple(name for name, is_gated in zip(names, self._gated, strict=True) if is_gated),
            similarity=dict(zip(names, similarity.tolist(), strict=False)),
            scale=dict(zip(names, ratio.tolist(), strict=False)),
        )

    def _observe_step(self) -> None:
        """Record what the last step measured, if one has run since the last call; close the gates after P steps."""
        engine = self._gated_engine
        if engine.length == self._length:  # the prompt gave the first token
            return
        self._length = engine.length
        watched = len(self._similarity)
        if self._gates and watched >= self._window:
            self._gated_steps += bool(self._gated.any())
            return
        similarity, ratio = engine.importance()
        self._similarity.append(similarity.copy())
        self._ratio.append(ratio.copy())
        if self._gates and watched + 1 == self._window:
            engine.watch(False)
            means, scale = self._means()
            self._gated = means >= self._threshold
            engine.gate(self._gated, scale.astype(np.float32))

    def _means(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean similarity and norm ratio [G] over the watched steps; [0] each if there were none."""
        if not self._similarity:
            return np.empty(0), np.empty(0)
        return np.mean(self._similarity, axis=0, dtype=np.float64), np.mean(self._ratio, axis=0, dtype=np.float64)

    def _open_all_gates(self) -> None:
        open_gates(self._gated_engine)


def open_gates(engine: OnlineEngine) -> None:
    """Make every FFN run from the next step on, unwatched."""
    count = len(engine.ffns)
    engine.watch(False)
    engine.gate(np.zeros(count, np.bool_), np.ones(count, np.float32))


def online_decoding(engine: Engine, policy: Online, record: OnlineRecord | None) -> OnlineDecoding:
    """Return the decoding of one generation.

    Raises:
        EdgeSkipError: If the artifact has no gates.
    """
    if record is None or not isinstance(engine, OnlineEngine):
        raise EdgeSkipError("this artifact has no FFNs to skip online: export one with  edgeskip export --online")
    return OnlineDecoding(engine, policy, record)
