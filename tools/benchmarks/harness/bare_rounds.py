"""The rounds of a speculative generation, and the same rounds again by calls of the engine alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgeskip.runtime.engines.interface import DraftingEngine
    from edgeskip.runtime.generation import Generation


def rounds_of(generation: Generation, gamma: int, max_tokens: int) -> list[tuple[int, int]]:
    """Tokens drafted and accepted in each round of a generation that drafted γ wherever there was room for them.

    The first token is the prefill's; every round ends with a token nobody drafted.
    """
    drafted = list(generation.drafted) + [False] * (generation.finish_reason == "eos")
    found, at = [], 1
    while at < len(drafted):
        accepted = drafted.index(False, at) - at
        depth = min(gamma, max_tokens - at - 1)
        if depth:  # else a plain step
            found.append((depth, accepted))
        at += accepted + 1
    return found


def bare_seconds(
    engine: DraftingEngine, prompt: NDArray[np.int64], rounds: Sequence[tuple[int, int]], capacity: int, which: int = 0
) -> float:
    """Seconds of the engine's part of `rounds` (drafted, accepted) behind `prompt` int64 [n], and of nothing else.

    `which` exit drafts. Which tokens are fed is all the same to every kernel; how many are before them is not.
    """
    from edgeskip.runtime.engines.prefill import prefill

    engine.truncate(0)
    engine.reserve(min(engine.context_length, capacity))
    prefill(engine, prompt)
    token = prompt[-1:]
    begin = time.perf_counter()
    for drafted, accepted in rounds:
        held = engine.length
        for _ in range(drafted):
            engine.draft(token, which=which)
        engine.verify(token)
        engine.truncate(held + 1 + accepted)
    return time.perf_counter() - begin
