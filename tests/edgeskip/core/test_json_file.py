"""JSON within bounds. Oracle: Python's own json where it is bounded, and values beyond the bounds made by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.json_file import MAX_DEPTH, parse_json, read_json

GOOD = [
    '{"a": [1, -2, 2.5e-3, "é 😀", null, true], "b": {}}', "[]", "0", '"\\ud83d\\ude00"', str(10**30), str(-(2**63)),
    "[" * MAX_DEPTH + "]" * MAX_DEPTH, "[" + ",".join(["[1]"] * 500) + "]", '{"a": 1, "a": 2}', "1e308", "5e-324",
]  # fmt: skip
BAD = [
    ("", "Expecting value"),
    ("{", "Expecting"),
    ("NaN", "NaN is not a number"),
    ('{"a": [-Infinity]}', "-Infinity is not a number"),
    ("1e999", "1e999 is too large"),
    ("-1e999", "too large"),
    (str(10**40), "the number 100000000000… has 41 digits"),
    ("-" + "9" * 5000, "has 5001 digits"),
    ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested more than 64 deep"),
    ("[" * 100_000 + "]" * 100_000, "nested more than 64 deep"),
    ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested more than 64 deep"),
    ('["\\ud800"]', "half a surrogate pair"),
    ('{"\\uDFFF": 1}', "half a surrogate pair"),
    (b"\xff", "can't decode"),
    (b'"\xed\xa0\x80"', "can't decode"),
]


@pytest.mark.parametrize("text", GOOD)
def test_what_is_within_bounds_is_as_python_reads_it(text: str) -> None:
    assert parse_json(text) == json.loads(text)
    assert parse_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize(("text", "told"), BAD, ids=range(len(BAD)))
def test_what_is_not(text: str | bytes, told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        parse_json(text)
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(EdgeSkipError, match=r"x\.json is not a log \(not JSON: .*\): make it again") as caught:
        read_json(path, "not a log", "make it again")
    assert len(str(caught.value).removeprefix(str(path))) < 150


def test_a_byte_order_mark_is_not_part_of_it(tmp_path: Path) -> None:
    """As Windows' editors save a profile."""
    path = tmp_path / "x.json"
    path.write_text('{"a": "é"}', encoding="utf-8-sig")
    assert parse_json(path.read_bytes()) == read_json(path, "no log", "make it again") == {"a": "é"}


def test_numbers_that_json_has_not() -> None:
    """Python writes NaN and Infinity, and so do some of Hugging Face's files."""
    assert parse_json('{"a": [Infinity, -Infinity, 1e999]}', finite=False)["a"] == [math.inf, -math.inf, math.inf]
