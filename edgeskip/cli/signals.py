"""Signals: Ctrl-C, SIGTERM and SIGHUP unwind the command, so that it removes its temporary files."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

LONGEST_IMPORT_S = 20.0
_stopped_by: signal.Signals | None = None
_has_ended = False  # whether the command has ended, so that only its exit code is left to report
_put_off_since: float | None = None  # when the first signal came that an import put off
_asked_again = False  # whether a Ctrl-C sent by `_ask_again` is on its way


@contextmanager
def handled() -> Iterator[None]:
    """Handle signals for the command line while the block runs."""
    before, hook = _install(), sys.unraisablehook
    sys.unraisablehook = _ask_again
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook


def stopped_by() -> signal.Signals | None:
    """Return the signal other than Ctrl-C that ended the command; None if none did."""
    return _stopped_by


def command_ended() -> None:
    """Let a further Ctrl-C end the process at once: the command has ended already."""
    global _has_ended
    _has_ended = True


def _install() -> dict[int, Any]:
    """Make signals unwind this process, and return the handlers there were before."""
    global _stopped_by, _has_ended, _asked_again
    _stopped_by, _has_ended, _asked_again = None, False, False
    numbers = [signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        numbers.append(signal.SIGHUP)  # a terminal that is closed must leave nothing behind either
    before: dict[int, Any] = {number: signal.signal(number, _stop) for number in numbers}
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in the background of a shell script
        before[signal.SIGINT] = signal.signal(signal.SIGINT, _interrupt)
    return before


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End the command; if it has ended, the process, unless this is the Ctrl-C that ended it, sent again."""
    global _asked_again
    if _put_off(number, frame):
        return
    again, _asked_again = _asked_again, False
    if not _has_ended:
        raise KeyboardInterrupt
    if not again:
        os._exit(128 + number)


def _stop(number: int, frame: FrameType | None) -> None:
    """Leave through every `finally`, so that a terminated run removes its temporary files too."""
    global _stopped_by
    if _put_off(number, frame):
        return
    _stopped_by = signal.Signals(number)
    sys.exit(128 + number)


def _put_off(number: int, frame: FrameType | None) -> bool:
    """Return whether the signal came in the middle of an import, and if so send it again a moment later.

    torch's C++ code may abort when an import is interrupted. After LONGEST_IMPORT_S an import is interrupted too.
    """
    global _put_off_since
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    now = time.monotonic()
    _put_off_since = None if frame is None else _put_off_since or now
    if _put_off_since is None or now - _put_off_since > LONGEST_IMPORT_S:
        return False
    _thread.start_new_thread(_interrupt_soon, (number,))  # threading's own locks may be held here
    return True


def _interrupt_soon(number: int) -> None:
    time.sleep(0.002)
    if hasattr(signal, "pthread_kill") and (main := threading.main_thread().ident) is not None:
        signal.pthread_kill(main, number)  # ends a waiting system call too
    else:
        _thread.interrupt_main(signal.Signals(number))


def _ask_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Deliver the signal again if a destructor or a callback raised it: what they raise is lost."""
    global _asked_again
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        _asked_again = True
        _thread.interrupt_main(signal.SIGINT)
    elif isinstance(unraisable.exc_value, SystemExit) and _stopped_by is not None:
        _thread.interrupt_main(_stopped_by)
    else:
        sys.__unraisablehook__(unraisable)
