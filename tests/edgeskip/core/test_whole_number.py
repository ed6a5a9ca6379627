"""Whole numbers from words. By hand: what a user would call a number, and never Python's own refusal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgeskip.bench.devices.ssh.destination import parse_destination
from edgeskip.bench.grid import parse_lengths
from edgeskip.calibration.config import parse_exits
from edgeskip.cli.commands.train import _layers
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.whole_number import whole_number, whole_numbers

LONG = "9" * 5000  # Python's int() reads 4300 digits at most


@pytest.mark.parametrize(("word", "number"), [("0", 0), ("007", 7), ("9" * 18, 10**18 - 1)])
def test_digits_are_a_number(word: str, number: int) -> None:
    assert whole_number(word) == number


@pytest.mark.parametrize("word", ["", " 7", "7\n", "-7", "+7", "7_0", "7.0", "٣", "²", "9" * 19, LONG])
def test_other_words_are_none(word: str) -> None:
    assert whole_number(word) is None


def test_numbers_between_commas() -> None:
    assert whole_numbers(" 4, 8,0") == [4, 8, 0]
    assert [whole_numbers(text) for text in ("", "4,", "4,x", f"4,{LONG}")] == [None] * 4


@pytest.mark.parametrize("word", [LONG, "٣"], ids=["long", "Arabic"])
@pytest.mark.parametrize(
    "read",
    [
        parse_exits,
        _layers,
        lambda word: parse_lengths(word, "-p", least=0),
        lambda word: parse_destination(f"host:{word}"),
        lambda word: parse_destination(f"[::1]:{word}"),
    ],
    ids=["calibrate", "train", "bench", "port", "IPv6 port"],
)
def test_every_option_refuses_them(read: Callable[[str], object], word: str) -> None:
    """By hand: one line, not too long to be read."""
    with pytest.raises(EdgeSkipError):
        read(word)
