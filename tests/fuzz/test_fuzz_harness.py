"""The harness itself. Oracle: readers that end in each way on purpose."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from fuzz_harness import Reader, damage, fuzz

from edgeskip.core.errors import EdgeSkipError

GOOD = '{"a": [1, 2.5, "text"], "b": {"c": null}}'


def _prepare(folder: Path) -> None:
    (folder / "x.json").write_text(GOOD)


def _harmed(then: Callable[[], object]) -> Callable[[Path], object]:
    """Reads good files in silence: only damage has an end."""

    def read(folder: Path) -> object:
        return None if (folder / "x.json").read_text(errors="replace") == GOOD else then()

    return read


def _refuse() -> None:
    raise EdgeSkipError("x.json is damaged: write it again")


def _end(number: int) -> None:
    os.kill(os.getpid(), number)


def _spin() -> None:
    while True:
        pass


def _fill() -> None:
    bytearray(1 << 40)


def _fill_within_limits() -> None:
    bytes(b"\1" * (300 << 20))


ENDS: list[tuple[str, Callable[[], object]]] = [
    ("ok", lambda: None),
    ("error", _refuse),
    ("error", lambda: Path("gone").read_bytes()),
    ("traceback", lambda: 1 / 0),
    ("signal", lambda: _end(signal.SIGSEGV)),
    ("signal", lambda: os._exit(3)),
    ("hang", _spin),
    ("memory", _fill),
    ("memory", _fill_within_limits),
]


@pytest.mark.parametrize(("kind", "then"), ENDS)
def test_ends_are_told_apart(kind: str, then: Callable[[], object]) -> None:
    reader = Reader("x", _prepare, ("*.json",), _harmed(then), cpu_s=1, memory_bytes=256 << 20)
    summary = fuzz(reader, inputs=1)
    assert summary.counts == {kind: 1}
    assert len(summary.findings) == (kind not in ("ok", "error"))


def test_a_seed_gives_the_same_damage(tmp_path: Path) -> None:
    """And numbers other damage; a pattern that names no file is no reason to stop."""
    reader = Reader("x", _prepare, ("*.json", "*.txt"), lambda folder: None)
    found = []
    for number in (0, 0, 1, 2):
        folder = tmp_path / str(len(found))
        folder.mkdir()
        _prepare(folder)
        damage(reader, folder, Random(f"x 0 {number}"))
        found.append((folder / "x.json").read_bytes())
    assert found[0] == found[1]
    assert len(set(found)) > 1


def test_a_reader_that_does_not_read_good_files_is_no_reader() -> None:
    with pytest.raises(AssertionError, match="does not read its own unharmed files"):
        fuzz(Reader("x", _prepare, ("*.json",), lambda folder: 1 / 0), inputs=1)
