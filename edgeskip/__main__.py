"""The entry of the `edgeskip` command and of `python -m edgeskip`, which is how torchrun starts it."""

import atexit
import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn


def main() -> None:
    """Run the command line. A signal that comes while it is being imported, or after it has ended, ends the process
    without a traceback and with the exit code that shells give signals."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _leave)
    from edgeskip.cli.main import main

    try:
        main()
    except SystemExit as stop:
        _end(stop.code)
    except KeyboardInterrupt:  # a further one, that came while the command was ending by the first
        os._exit(128 + signal.SIGINT)


def _end(code: object) -> NoReturn:
    """Exit without taking the interpreter apart: Python gives signals back their deadly default meanwhile, and
    libraries' threads now and then abort."""
    if code is not None and not isinstance(code, int):
        raise SystemExit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or none
            stream.flush()
    os._exit(code or 0)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    main()
