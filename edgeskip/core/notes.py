"""Notes of the library, in addition to its results: through Python's logging, under the logger `edgeskip`.

Nothing is printed unless a program asks for it, as the command line does.
"""

from __future__ import annotations

import logging

_LOGGER = logging.getLogger("edgeskip")
_LOGGER.addHandler(logging.NullHandler())


def note(line: str) -> None:
    """Log something the user should know, at the level INFO."""
    _LOGGER.info(line)


def detail(line: str) -> None:
    """Log something that only someone who looks closely wants to know, at the level DEBUG."""
    _LOGGER.debug(line)
