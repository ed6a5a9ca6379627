"""The rounds of a speculative generation: what the engine was asked for meanwhile, and the same rounds by it alone."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgeskip.runtime.engines.interface import DraftingEngine, Engine
    from edgeskip.runtime.generation import Generation


@dataclass(frozen=True)
class Call:
    """All calls of one kind with as many rows: tokens that a `step` or `draft` appends, that a `verify` runs."""

    kind: str
    rows: int
    count: int
    seconds: float


class CallTimes:
    """Seconds of the calls so far, by kind and rows."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], list[float]] = defaultdict(list)

    def add(self, kind: str, rows: int, seconds: float) -> None:
        self._found[kind, rows].append(seconds)

    @property
    def calls(self) -> list[Call]:
        """By kind and rows, in that order."""
        return [Call(*key, len(some), sum(some)) for key, some in sorted(self._found.items())]


@contextmanager
def timed_calls(engine: Engine, prompt_tokens: int) -> Iterator[CallTimes]:
    """Time `step`, `draft` and `verify` behind the prompt's tokens; a prefill is none of decoding's calls."""
    times = CallTimes()
    kinds = [kind for kind in ("step", "draft", "verify") if hasattr(engine, kind)]

    def timed(kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(tokens: Any, **options: Any) -> Any:
            held = engine.length
            rows = len(tokens) + (getattr(engine, "drafted", 0) if kind == "verify" else 0)
            begin = time.perf_counter()
            answer = call(tokens, **options)
            seconds = time.perf_counter() - begin
            if held >= prompt_tokens:
                times.add(kind, rows, seconds)
            return answer

        return run

    for kind in kinds:
        setattr(engine, kind, timed(kind, getattr(engine, kind)))
    try:
        yield times
    finally:
        for kind in kinds:
            delattr(engine, kind)  # the class's own again


def summed_calls(calls: Sequence[Sequence[Call]]) -> list[Call]:
    """Calls of several generations, added up."""
    total: dict[tuple[str, int], tuple[int, float]] = {}
    for call in (call for some in calls for call in some):
        count, seconds = total.get((call.kind, call.rows), (0, 0.0))
        total[call.kind, call.rows] = count + call.count, seconds + call.seconds
    return [Call(*key, *value) for key, value in sorted(total.items())]


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
