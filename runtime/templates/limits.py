"""How much a chat template may do: the limits, and the meter that counts one rendering against them.

A template is data of the model's folder, and jinja2's sandbox bounds neither time nor memory: `'x' * 10**10` is one
expression. The meter is asked before anything grows. What a text or a list weighs is known when it is made, nested and
repeated members counted each time, so that whatever is later done with it (printed, compared, sorted) has a bound too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Set, ValuesView
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

from edgeskip.core.errors import EdgeSkipError

NODE = 8
"""What a value weighs beside its characters: a list of 10 numbers weighs 88."""


@dataclass(frozen=True)
class TemplateLimits:
    """The defaults are 100 times what the templates of today's models need; the input's size comes on top."""

    source: int = 256 * 1024  # characters of the template itself
    names: int = 2000  # different variables that it sets: jinja2 compiles in time names × branches
    weight: int = 4 * 2**20  # of one value: characters, and 8 for each member of a list or an object
    made: int = 256 * 2**20  # bytes of all texts and lists together that one rendering makes
    most_made: int = 2 * 2**30  # the same, however long the conversation
    steps: int = 1_000_000  # iterations, calls, operators
    seconds: float = 3.0  # of this thread's processor time
    patience: float = 12.0  # seconds of wall time, on a machine that is busy with something else
    number_bits: int = 4096  # of an integer
    depth: int = 200  # levels of lists within lists
    width: int = 1000  # of a formatted field
    search: int = 200_000_000  # characters × characters in searches that take so many steps


class TemplateLimitError(EdgeSkipError):
    """A template asks for more than it may."""


class TemplateMeter:
    """Counts one rendering. Every method that refuses raises a TemplateLimitError."""

    def __init__(self, limits: TemplateLimits, values: Mapping[str, Any]) -> None:
        self.limits = limits
        self._weights: dict[
            int, tuple[object, int, int]
        ] = {}  # by identity; the object is kept, so that its id stays its
        self.most = sys.maxsize
        given = sum(self.weight(value) for value in values.values())
        messages = values.get("messages")
        turns = len(messages) if isinstance(messages, list) else 0
        self.most = limits.weight + 4 * given
        # A template may add up the conversation message by message, and then makes turns × its length in all.
        self._made_left = min(limits.most_made, limits.made + 2 * turns * given)
        self._steps_left = limits.steps + 20 * given
        self._clock = getattr(time, "thread_time", time.process_time)
        self._used_before = self._clock()
        self._look = time.perf_counter() + limits.seconds
        self._until = time.perf_counter() + limits.patience

    def refuse(self, what: str) -> NoReturn:
        raise TemplateLimitError(what)

    def tick(self) -> None:
        """Count one step."""
        self._steps_left -= 1
        if self._steps_left < 0:
            self.refuse(f"takes more than {self.limits.steps:,} steps")
        now = time.perf_counter()
        if now > self._look:
            left = self.limits.seconds - (self._clock() - self._used_before)
            if left <= 0 or now > self._until:
                self.refuse(f"computes for more than {self.limits.seconds:g} s")
            self._look = now + left  # a busy machine is not the template's fault

    def room(self, weight: int) -> None:
        """Refuse a value of this weight before it is made."""
        if weight > self.most:
            self.refuse(f"makes a text or list of more than {self.most:,} characters")

    def made(self, value: Any) -> Any:
        """Return `value`, which an expression has just made, once it is weighed."""
        if isinstance(value, str):
            self.room(len(value))
            self._spend(sys.getsizeof(value))
        elif isinstance(value, list | tuple | dict | set | frozenset):
            self.room(self.weight(value))
            self._spend(16 * len(value) + 56)
        elif isinstance(value, int) and value.bit_length() > self.limits.number_bits:
            self.refuse(f"computes a number of more than {self.limits.number_bits} bits")
        return value

    def weight(self, value: object) -> int:
        """Return the number of characters and members; nested ones count as often as they are named."""
        return self._weigh(value)[0]

    def _weigh(self, value: object) -> tuple[int, int]:
        """Return weight and levels of nesting."""
        if isinstance(value, str):
            return len(value) + NODE, 0
        if isinstance(value, bool) or value is None:
            return NODE, 0
        if isinstance(value, int):
            return NODE + value.bit_length() // 3, 0
        if isinstance(value, range):
            return NODE * (1 + len(value)), 0
        if not isinstance(value, list | tuple | Mapping | Set | ValuesView):
            return NODE, 0
        known = self._weights.get(id(value))
        if known is not None:
            return known[1], known[2]
        total, depth = NODE, 0
        members = chain.from_iterable(value.items()) if isinstance(value, Mapping) else value
        for member in members:
            weight, levels = self._weigh(member)
            total += weight
            depth = max(depth, levels + 1)
            if total > self.most:
                break
        if depth > self.limits.depth:  # Python hashes nested tuples by recursion without a limit
            self.refuse(f"nests lists more than {self.limits.depth} deep")
        self._weights[id(value)] = (value, total, depth)
        return total, depth

    def iterate(self, values: Iterable[Any]) -> Iterator[Any]:
        """Yield what `values` yields, a step each."""
        for value in values:
            self.tick()
            yield value

    def collect(self, values: Iterable[Any]) -> list[Any]:
        """Return a list of what `values` yields, refused while it grows too heavy."""
        found, total = [], NODE
        for value in values:
            self.tick()
            total += self.weight(value)
            self.room(total)
            found.append(value)
        return found

    def _spend(self, size: int) -> None:
        self._made_left -= size
        if self._made_left < 0:
            self.refuse(f"makes more than {self.limits.made // 2**20} MB of texts and lists")


class Buffer(list[str]):
    """A list of pieces of output that is weighed as it grows; `jinja2` appends to it and joins it."""

    def __init__(self, meter: TemplateMeter) -> None:
        super().__init__()
        self._meter, self._length = meter, 0

    def append(self, piece: str) -> None:
        self._meter.tick()
        self._length += len(piece)
        self._meter.room(self._length)
        super().append(piece)

    def extend(self, pieces: Iterable[str]) -> None:
        for piece in pieces:
            self.append(piece)
