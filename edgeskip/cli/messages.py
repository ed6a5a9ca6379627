"""What a command says on standard error in addition to errors: notes, and with --verbose the details.

The library says such things through Python's logging, under the logger `edgeskip`: INFO and above is a note, DEBUG a
detail. `listen` connects the two.
"""

from __future__ import annotations

import enum
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress


class Verbosity(enum.IntEnum):
    """How much a command says on standard error; errors are always said."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


def _write_line(line: str) -> None:
    with suppress(OSError, ValueError):  # nobody reads standard error: the work goes on
        print(line, file=sys.stderr, flush=True)


_verbosity = Verbosity.NORMAL
_put_off: list[str] = []
_write: Callable[[str], None] = _write_line


def verbosity() -> Verbosity:
    """Return how much this command says: what `--quiet` and `--verbose` ask for."""
    return _verbosity


def begin(value: Verbosity) -> None:
    """Start a command that says as much, with the notes that were put off until this was known."""
    global _verbosity
    _verbosity = value
    while _put_off:
        note(_put_off.pop(0))


def reset() -> None:
    """Forget the command before, if this process runs several."""
    global _verbosity
    _verbosity = Verbosity.NORMAL
    _put_off.clear()


def note_later(line: str) -> None:
    """Print a note once it is known whether the command is to be quiet."""
    _put_off.append(line)


def set_writer(write: Callable[[str], None] | None) -> None:
    """Send lines through `write`, as long as a progress bar is drawn; None = straight to standard error."""
    global _write
    _write = write or _write_line


def note(line: str) -> None:
    """Print something the user should know, as `edgeskip: note: …` on standard error; nothing with `--quiet`."""
    if _verbosity >= Verbosity.NORMAL and _is_first():
        _write(f"edgeskip: note: {line}")


def status(line: str) -> None:
    """Print `line` as it is on standard error, such as what a run cost; nothing with `--quiet`."""
    if _verbosity >= Verbosity.NORMAL and _is_first():
        _write(line)


def detail(line: str) -> None:
    """Print what only `--verbose` shows."""
    if _verbosity >= Verbosity.VERBOSE and _is_first():
        _write(f"edgeskip: {line}")


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"  # of the processes of a torchrun


class _Listener(logging.Handler):
    """Prints what the library logs."""

    def emit(self, record: logging.LogRecord) -> None:
        (note if record.levelno >= logging.INFO else detail)(record.getMessage())


_LISTENER = _Listener()


def listen() -> None:
    """Print what the library logs from now on."""
    logger = logging.getLogger("edgeskip")
    logger.addHandler(_LISTENER)
    logger.setLevel(logging.DEBUG)


def stop_listening() -> None:
    """Leave what the library logs to the program that this command ran in."""
    logger = logging.getLogger("edgeskip")
    logger.removeHandler(_LISTENER)
    logger.setLevel(logging.NOTSET)
