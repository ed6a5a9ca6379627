"""The entry of the `edgeskip` command and of `python -m edgeskip`, which is how torchrun starts it."""

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line. A signal that comes while it is being imported ends the process without a traceback."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _leave)
    from edgeskip.cli import main

    try:
        main()
    except KeyboardInterrupt:  # a further one, that came while the command was ending by the first
        os._exit(128 + signal.SIGINT)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    main()
