"""How much of a cache on disk is there: its rows are counted as done in pieces, each with the hash of what it wrote.

A cache that is gone on with is read once before, and counts up to the first piece that is not as it was written: arrays
that were lost, cut off or changed are filled again, never read as the zeros that a new file is made of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgeskip.core.files import replace_file
from edgeskip.core.json_file import parse_json

_FORMAT = 2


class CacheProgress:
    """The file `path`, which says how many items of a cache are done, in the order they are done in.

    `digest(start, stop)`: hex hash of what items start … stop−1 of that order have in the cache now. `what`: hash of
    the items themselves and of what is kept of them; a file with another one counts for nothing.
    """

    def __init__(self, path: Path, what: str, digest: Callable[[int, int], str]) -> None:
        self._path, self._what, self._digest = path, what, digest
        self._pieces: list[tuple[int, str]] = []  # (items done by then, hash of those since the piece before)

    @property
    def done(self) -> int:
        """Items that are done and written down."""
        return self._pieces[-1][0] if self._pieces else 0

    def resume(self, count: int) -> str | None:
        """Take the file's word as far as the cache agrees, of `count` items at most.

        Returns:
            Why less counts than the file says, in a few words; None if all of it does or there is no file.
        """
        self._pieces = []
        try:
            found = _read(self._path, self._what)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            return f"{self._path.name} is damaged ({error})"
        start = 0
        for stop, digest in found:
            if not start < stop <= count:
                return f"{self._path.name} is damaged (item {stop} of {count})"
            if self._digest(start, stop) != digest:
                return "its arrays are not as they were written"
            self._pieces.append((stop, digest))
            start = stop
        return None

    def advance(self, done: int) -> None:
        """Write down that `done` items are done, whose bytes are on disk."""
        self._pieces.append((done, self._digest(self.done, done)))
        content = {"format": _FORMAT, "what": self._what, "pieces": self._pieces}
        replace_file(self._path, json.dumps(content).encode())


def _read(path: Path, what: str) -> list[tuple[int, str]]:
    found: Any = parse_json(path.read_bytes())
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise ValueError("of another version")
    if found["what"] != what:
        raise ValueError("of other examples")
    pieces = [(stop, digest) for stop, digest in found["pieces"]]
    if not all(type(stop) is int and isinstance(digest, str) for stop, digest in pieces):
        raise ValueError("no list of pieces")
    return pieces


def digest_of(parts: Sequence[Any]) -> str:
    """Hex sha256 of arrays and text, one after the other."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode() if isinstance(part, str) else part)
    return found.hexdigest()
