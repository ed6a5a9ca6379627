"""JSON from a file, bounded in size, depth and numbers: what stands behind it need not expect anything else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from edgeskip.core.errors import EdgeSkipError

MAX_BYTES = 1 << 30  # a tokenizer.json of 250,000 tokens has 35 MB, a bench log of a day's rounds as much
MAX_DEPTH = 64  # arrays and objects within each other; none of our files, nor of Hugging Face's, has more than 12
MAX_DIGITS = 40  # of an integer; tokenizer_config.json has 1e30 for "no limit" in full


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """Return the value that `text` says; if an object has a key twice, the last one counts.

    Args:
        text: JSON, as UTF-8 if it is bytes; those may begin with a byte order mark, which editors on Windows write.
        finite: Whether NaN and the infinities are refused, which Python and Hugging Face's files write, JSON has not.

    Raises:
        ValueError: If it is not JSON, is nested deeper than `MAX_DEPTH`, or holds an integer of more than `MAX_DIGITS`
            digits, an unpaired surrogate or, with `finite`, a number that is none. The message fits into a line.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        strict: dict[str, Any] = {"parse_constant": _refuse_constant, "parse_float": _number} if finite else {}
        value = json.loads(text, parse_int=_integer, **strict)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(value)
    if "\\u" in text and ("\\ud" in text or "\\uD" in text):
        _check_text(value)
    return value


def read_json(path: Path, verdict: str, fix: str, *, finite: bool = True) -> Any:
    """Return the value in the UTF-8 file at `path`.

    Args:
        path: The file.
        verdict: What the file is if it is no JSON, for the message: "not a profile".
        fix: What to do then, for the message: "calibrate again".
        finite: As for `parse_json`.

    Raises:
        EdgeSkipError: If the file is not JSON within the bounds of `parse_json`, or larger than `MAX_BYTES`.
        OSError: If it cannot be read.
    """
    if path.stat().st_size > MAX_BYTES:
        raise EdgeSkipError(f"{path} is {verdict} (larger than {MAX_BYTES >> 20} MB): {fix}")
    data = path.read_bytes()
    try:
        return parse_json(data, finite=finite)
    except ValueError as error:
        raise EdgeSkipError(f"{path} is {verdict} (not JSON: {error}): {fix}") from None


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"the number {digits[:12]}… has {len(digits)} digits")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:12]} is too large")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _check_depth(value: Any) -> None:
    layer, depth = [value], 0
    while layer := [inner for inner in layer if isinstance(inner, (dict, list))]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        layer = [item for inner in layer for item in (inner.values() if isinstance(inner, dict) else inner)]


def _check_text(value: Any) -> None:
    rest = [value]
    while rest:
        one = rest.pop()
        if isinstance(one, dict):
            rest += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            rest += one
        elif isinstance(one, str):
            try:
                one.encode()
            except UnicodeEncodeError:
                raise ValueError("text with half a surrogate pair") from None
