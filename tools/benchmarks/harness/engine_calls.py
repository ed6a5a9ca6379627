"""Notes what an engine is asked for while it generates and how long each call takes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeskip.runtime.engines.interface import Engine


@dataclass(frozen=True)
class Call:
    """All calls of one kind with as many rows: tokens that a `step` or `draft` appends, that a `verify` runs."""

    kind: str
    rows: int
    count: int
    seconds: float


class Notes:
    """What was noted so far."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], list[float]] = defaultdict(list)

    def add(self, kind: str, rows: int, seconds: float) -> None:
        self._found[kind, rows].append(seconds)

    @property
    def calls(self) -> list[Call]:
        """By kind and rows, in that order."""
        return [Call(*key, len(some), sum(some)) for key, some in sorted(self._found.items())]


@contextmanager
def noted(engine: Engine, prompt_tokens: int) -> Iterator[Notes]:
    """Notes `step`, `draft` and `verify` behind the prompt's tokens; a prefill is none of decoding's calls."""
    notes = Notes()
    kinds = [kind for kind in ("step", "draft", "verify") if hasattr(engine, kind)]

    def timed(kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(tokens: Any, **options: Any) -> Any:
            held = engine.length
            rows = len(tokens) + (getattr(engine, "drafted", 0) if kind == "verify" else 0)
            begin = time.perf_counter()
            answer = call(tokens, **options)
            seconds = time.perf_counter() - begin
            if held >= prompt_tokens:
                notes.add(kind, rows, seconds)
            return answer

        return run

    for kind in kinds:
        setattr(engine, kind, timed(kind, getattr(engine, kind)))
    try:
        yield notes
    finally:
        for kind in kinds:
            delattr(engine, kind)  # the class's own again


def together(calls: Sequence[Sequence[Call]]) -> list[Call]:
    """Calls of several generations, added up."""
    total: dict[tuple[str, int], tuple[int, float]] = {}
    for call in (call for some in calls for call in some):
        count, seconds = total.get((call.kind, call.rows), (0, 0.0))
        total[call.kind, call.rows] = count + call.count, seconds + call.seconds
    return [Call(*key, *value) for key, value in sorted(total.items())]
