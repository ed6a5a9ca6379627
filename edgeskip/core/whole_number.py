"""A whole number from a word that someone typed, or that a file has as a name."""

from __future__ import annotations

import re

_DIGITS = re.compile(r"[0-9]{1,18}")  # as many as fit 64 bits; Python refuses to read more than 4300, with a traceback


def whole_number(word: str) -> int | None:
    """Return the number that 1 … 18 digits, 0 to 9, write.

    None for any other word: a sign, a space, another script's digits, more digits.
    """
    return int(word) if _DIGITS.fullmatch(word) else None
