"""Ctrl-C at the n-th line (or bytecode instruction) of the engines' code, for every n: what a signal handler does at a
place of its choosing, a trace function does at each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgeskip.runtime

RUNTIME = str(edgeskip.runtime.__path__[0])
Played = list[NDArray[np.float32]]


class Interruption:
    """A trace function that raises KeyboardInterrupt at event `at` (from 0) in the runtime's files; None = at none."""

    def __init__(self, at: int | None, *, opcodes: bool = False) -> None:
        self._at, self._kind = at, "opcode" if opcodes else "line"
        self.places: list[str] = []
        self.place = ""
        # The interpreter borrows its reference to the function while it calls it, and drops it when the function
        # raises. One object that lives as long as this one cannot be freed in between.
        self._hook = self._trace

    def __enter__(self) -> Interruption:
        sys.settrace(self._hook)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(RUNTIME):
            return None
        frame.f_trace_opcodes = self._kind == "opcode"
        if event == self._kind:
            place = f"{frame.f_code.co_filename.removeprefix(RUNTIME)}:{frame.f_lineno}"
            place += f" +{frame.f_lasti}" if self._kind == "opcode" else ""
            if len(self.places) == self._at:
                self.place, self._at = place, None
                raise KeyboardInterrupt
            self.places.append(place)
        return self._hook


def chosen_events(places: list[str], often: int | None) -> list[int]:
    """Which events to interrupt at: the first `often` of each place, and its last; None = all."""
    if often is None:
        return list(range(len(places)))
    seen: dict[str, list[int]] = {}
    for number, place in enumerate(places):
        seen.setdefault(place, []).append(number)
    return sorted({number for events in seen.values() for number in (*events[:often], events[-1])})


def interrupted_at_each(
    fresh: Callable[[], Any],
    play: Callable[[Any], Played],
    *,
    often: int | None = None,
    step: int = 1,
    warm: bool = False,
    opcodes: bool = False,
) -> Iterator[tuple[str, Any]]:
    """(place, engine) for every `step`-th of the chosen events of `play` on an engine from `fresh`, interrupted there.

    What the engine has freed by then is overwritten. `warm`: it has played once before, uninterrupted.
    """

    def made() -> Any:
        engine = fresh()
        if warm:
            play(engine)
        return engine

    engine = made()
    with Interruption(None, opcodes=opcodes) as counted:
        play(engine)
    engine.close()
    assert len(counted.places) > 100
    for at in chosen_events(counted.places, often)[::step]:
        engine = made()
        # What is raised in a callback ctypes prints and forgets: then nothing was cut short.
        with Interruption(at, opcodes=opcodes) as interruption, suppress(KeyboardInterrupt):
            play(engine)
        keep = overwrite_freed_memory()
        yield interruption.place, engine
        del keep
        engine.close()


def overwrite_freed_memory() -> list[NDArray[Any]]:
    """Takes the blocks that were freed last, of the sizes that engines use, and writes nonsense into them."""
    taken: list[NDArray[Any]] = []
    for size in (*range(1, 130), 256, 520, 1040, 2080, 4096, 4160, 8192, 16384, 32768, 65536):
        taken += [np.full(size, 10**15 + number, np.int64) for number in range(3)]
    return taken


def check_every_interruption(
    fresh: Callable[[], Any],
    play: Callable[[Any], Played],
    *,
    oracle: Played | None = None,
    atol: float = 1e-5,
    **options: Any,
) -> int:
    """Plays again on every interrupted engine and compares with `oracle`, else with an engine nobody interrupted."""
    if oracle is None:
        engine = fresh()
        oracle = play(engine)
        engine.close()
    wrong, count = [], 0
    for place, engine in interrupted_at_each(fresh, play, **options):
        count += 1
        try:
            if hasattr(engine, "truncate"):  # a session begins anew by itself
                engine.truncate(0)
            found = play(engine)
        except Exception as error:  # nothing may go wrong in an engine that is used again
            wrong.append(f"{place}: {type(error).__name__}: {error}")
            continue
        if len(found) != len(oracle) or not all(
            a.shape == b.shape and np.allclose(a, b, rtol=0, atol=atol) for a, b in zip(found, oracle, strict=True)
        ):
            wrong.append(f"{place}: another answer")
    assert not wrong, f"{len(wrong)} of {count} places: " + "; ".join(wrong[:8])
    return count
