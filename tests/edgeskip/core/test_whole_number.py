"""Whole numbers from words. By hand: what a user would call a number, and never Python's own refusal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgeskip.bench.devices.ssh.destination import parse_destination
from edgeskip.bench.grid import parse_lengths
from edgeskip.calibration.config import parse_exits
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.lists import parse_names, parse_numbers
from edgeskip.core.whole_number import whole_number

LONG = "9" * 5000  # Python's int() reads 4300 digits at most


@pytest.mark.parametrize(("word", "number"), [("0", 0), ("007", 7), ("9" * 18, 10**18 - 1)])
def test_digits_are_a_number(word: str, number: int) -> None:
    assert whole_number(word) == number


@pytest.mark.parametrize("word", ["", " 7", "7\n", "-7", "+7", "7_0", "7.0", "٣", "²", "9" * 19, LONG])
def test_other_words_are_none(word: str) -> None:
    assert whole_number(word) is None


def test_numbers_between_commas() -> None:
    assert parse_numbers(" 4, 8,0,4", "--exits") == (4, 8, 0)
    for text in ("", "4,", "4,x", f"4,{LONG}", "4,-1"):
        with pytest.raises(EdgeSkipError, match=r"--exits .*not a list of whole numbers"):
            parse_numbers(text, "--exits")
    with pytest.raises(EdgeSkipError, match="of at least 1"):
        parse_numbers("0", "-t", least=1)
    with pytest.raises(EdgeSkipError, match="at most 16"):
        parse_numbers("1,17", "-t", most=16)


def test_names_between_commas() -> None:
    assert parse_names(" cpu,CUDA, cpu,", "--provider") == ("cpu", "CUDA")
    assert parse_names("Plain,online", "--strategy", ("plain", "online")) == ("plain", "online")
    for text in ("", " , "):
        with pytest.raises(EdgeSkipError, match=r"--provider .* names nothing"):
            parse_names(text, "--provider")
    with pytest.raises(EdgeSkipError, match="--strategy fast is unknown; choose from plain, online"):
        parse_names("plain,fast", "--strategy", ("plain", "online"))


@pytest.mark.parametrize("word", [LONG, "٣"], ids=["long", "Arabic"])
@pytest.mark.parametrize(
    "read",
    [
        parse_exits,
        lambda word: parse_lengths(word, "-p", least=0),
        lambda word: parse_destination(f"host:{word}"),
        lambda word: parse_destination(f"[::1]:{word}"),
    ],
    ids=["calibrate", "bench", "port", "IPv6 port"],
)
def test_every_option_refuses_them(read: Callable[[str], object], word: str) -> None:
    """By hand: one line, not too long to be read."""
    with pytest.raises(EdgeSkipError):
        read(word)
