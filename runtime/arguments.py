"""Checks of what callers pass: text, messages, token ids, counts, stop texts, and paths, before anything runs."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError, shown
from edgeskip.core.paths import named_path
from edgeskip.core.user_errors import explain

_IDS_ARE = "token ids are a flat sequence of integers"
_DEEPEST = 64  # levels of lists and objects in a message
_MOST_BITS = 13_000  # of a whole number in a message: Python writes no more than 4300 digits, and raises for more
_UNREADABLE = (TypeError, ValueError, RuntimeError)  # what arrays of numpy and torch raise that have nothing to read


def check_text(value: object, name: str) -> str:
    """Return `value`, a text that every tokenizer can read; `name` is what the message calls it ("the prompt").

    Raises:
        EdgeSkipError: If it is not a str, or has characters that no text can have. Python substitutes such a lone
            surrogate for every byte of the command line that is not UTF-8.
    """
    if not isinstance(value, str):
        hint = ": decode the bytes first" if isinstance(value, bytes | bytearray | memoryview) else ""
        raise EdgeSkipError(f"{name} must be text, not {type(value).__name__}{hint}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        character = value[error.start]
        if "\udc80" <= character <= "\udcff":
            wrong = f"the byte 0x{ord(character) - 0xDC00:02x}, which is not UTF-8"
        else:
            wrong = f"half of a surrogate pair, U+{ord(character):04X}"
        raise EdgeSkipError(
            f"{name} has {wrong}, at character {error.start + 1}: give it as UTF-8, for example in a file with -f FILE"
        ) from None
    return value


def check_stop(stop: object) -> tuple[str, ...]:
    """Return the stop strings, given as one text, as several, or as None for none.

    Raises:
        EdgeSkipError: If one is not text, or empty, which would end every answer at once.
    """
    if stop is None:
        return ()
    if isinstance(stop, str):
        stop = (stop,)
    if isinstance(stop, bytes | Mapping) or not isinstance(stop, Iterable):
        raise EdgeSkipError(f"stop must be a text or a list of texts, not {type(stop).__name__}")
    try:
        given = list(stop)
    except _UNREADABLE:  # an array without dimensions can be iterated over by its type alone
        raise EdgeSkipError(f"stop must be a text or a list of texts, not {shown(stop)}") from None
    texts = tuple(check_text(one, "a stop string") for one in given)
    if not all(texts):
        raise EdgeSkipError("a stop string must not be empty")
    return texts


def check_count(value: object, name: str, *, least: int, most: int | None = None) -> int:
    """Return a whole number, Python's or numpy's, as an int.

    Raises:
        EdgeSkipError: For anything else (a fraction, a bool, a text) and outside of `least` … `most`.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        raise EdgeSkipError(f"{name} must be a whole number, not {shown(value)}")
    number = int(value)
    if number < least:
        raise EdgeSkipError(f"{name} must be at least {least}, not {_short(number)}")
    if most is not None and number > most:
        raise EdgeSkipError(f"{name} must be at most {most}, not {_short(number)}")
    return number


def check_choice(value: object, name: str) -> bool | None:
    """Return True, False or None, the default; EdgeSkipError for anything else: the text "no" would count as true."""
    if value is None or isinstance(value, bool | np.bool_):
        return None if value is None else bool(value)
    raise EdgeSkipError(f"{name} must be True, False or None, not {shown(value)}")


def check_chat_kwargs(value: object) -> dict[str, object]:
    """Return the variables for the chat template; raises EdgeSkipError if `value` is neither a dictionary nor None."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise EdgeSkipError(f"chat_kwargs must be a dictionary, name → value, not {type(value).__name__}")
    return dict(value)


def check_path(value: object, name: str) -> Path:
    """Return `value`, a text or a path, as a path that the system can look up, whether or not there is something.

    Raises:
        EdgeSkipError: For anything else, and for an empty text, which as a path would be the current folder.
    """
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise EdgeSkipError(f"{name} must be a text or a path, not {type(path).__name__}")
    found = named_path(path)
    try:
        found.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        short = path if len(path) < 300 else f"{path[:80]}…"
        raise EdgeSkipError(explain(OSError(error.errno, error.strerror, short)) or str(error)) from None
    except ValueError:  # a zero byte, or half of a surrogate pair
        raise EdgeSkipError(f"{name} has a character that no name can have, {shown(path)}: leave it out") from None
    return found


def check_real(value: object, name: str) -> float:
    """Return a finite number as a float; EdgeSkipError for anything else (nan, infinity, a bool, a text)."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise EdgeSkipError(f"{name} must be a number, not {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise EdgeSkipError(f"{name} must be a finite number, not {number}")
    return number


def token_ids(values: object, vocab_size: int | None = None) -> NDArray[np.int64]:
    """Return token ids int64 [n] from what tokenizers hand out.

    Args:
        values: Integers in a list, a tuple, an iterator or an array of numpy, torch or another library, flat or as the
            one row of a batch [1, n].
        vocab_size: Every id must be smaller; None = not known here.

    Raises:
        EdgeSkipError: For anything else: text, bytes, fractions, several rows, ids that the vocabulary does not have.
    """
    if isinstance(values, str | bytes | bytearray | memoryview):
        raise EdgeSkipError(f"{_IDS_ARE}, not {type(values).__name__}: decode bytes to text first")
    if isinstance(values, Mapping) or hasattr(values, "input_ids"):
        raise EdgeSkipError(f"{_IDS_ARE}, not {type(values).__name__}: of a tokenizer's answer, pass its input_ids")
    if isinstance(values, set | frozenset):
        raise EdgeSkipError(f"{_IDS_ARE}, not a set, which has no order")
    ids = _as_integers(values)
    if ids.ndim == 2 and len(ids) == 1:
        ids = ids[0]
    if ids.ndim != 1:
        if ids.ndim == 2:
            raise EdgeSkipError(f"these are {len(ids)} rows of token ids: give one sequence at a time")
        raise EdgeSkipError(f"{_IDS_ARE}, not an array of {ids.ndim} dimensions")
    if len(ids) and (ids.min() < 0 or (vocab_size is not None and ids.max() >= vocab_size)):
        wrong = int(ids.min()) if ids.min() < 0 else int(ids.max())
        most = f"0 … {vocab_size - 1}" if vocab_size is not None else "at least 0"
        raise EdgeSkipError(f"token ids must be {most}, and {wrong} is not: this is another model's input")
    return np.ascontiguousarray(ids, dtype=np.int64)


def _as_integers(values: object) -> NDArray[Any]:
    if isinstance(values, np.ndarray) and (values.dtype == object or not values.ndim):
        values = values.tolist()
    if not isinstance(values, np.ndarray):
        try:
            if hasattr(values, "tolist"):  # torch, wherever the tensor lies, and numpy's scalars
                values = values.tolist()
            elif not isinstance(values, Sequence):
                if not isinstance(values, Iterable):
                    raise EdgeSkipError(f"{_IDS_ARE}, not {type(values).__name__}")
                values = list(values)
        except _UNREADABLE:  # torch's sparse tensors, and those on "meta", which have no values
            raise EdgeSkipError(f"{_IDS_ARE}, and this {type(values).__name__} cannot be read as one") from None
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise EdgeSkipError(f"{_IDS_ARE}, not {type(values).__name__}")
        rows = values if values and all(_is_row(value) for value in values) else [values]
        for row in rows:
            for value in row:
                if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
                    raise EdgeSkipError(_no_id(value))
    try:
        ids = np.asarray(values) if len(values) else np.empty(0, np.int64)
    except (ValueError, OverflowError):
        raise EdgeSkipError(f"{_IDS_ARE}: these rows have different lengths") from None
    if ids.dtype.kind not in "iu":
        if ids.dtype == object and all(isinstance(value, numbers.Integral) for value in ids.flat):
            raise EdgeSkipError("token ids must be below 2**63: this is another model's input")
        raise EdgeSkipError(f"{_IDS_ARE}, not of {ids.dtype}")
    if ids.dtype.kind == "u" and ids.size and ids.max() > np.iinfo(np.int64).max:
        raise EdgeSkipError("token ids must be below 2**63: this is another model's input")
    return ids


def _is_row(value: object) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _no_id(value: object) -> str:
    if isinstance(value, str):
        return f"{_IDS_ARE}, and {shown(value, 40)} is text: give one text, or messages for a chat"
    if isinstance(value, Mapping):
        return "messages and token ids cannot be mixed: give one or the other"
    return f"{_IDS_ARE}, and {shown(value, 40)} is not one"


def check_messages(messages: Sequence[object]) -> list[dict[str, Any]]:
    """Return a conversation as plain dicts.

    Raises:
        EdgeSkipError: If an entry is not a message, a message has no role, a content is neither text nor a list of
            parts (with tool calls it may be None), or no tokenizer can read the text.
    """
    checked = []
    for number, message in enumerate(messages, 1):
        name = f"message {number}"
        if not isinstance(message, Mapping):
            raise EdgeSkipError(f'{name} is {type(message).__name__}: write {{"role": "user", "content": "…"}}')
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not role:
            raise EdgeSkipError(f'{name} has no role: write "role": "user", "assistant", "system" or "tool"')
        if content is None:
            if not message.get("tool_calls"):
                raise EdgeSkipError(f"{name} has no content: give some text")
        elif not isinstance(content, str | list | tuple):
            raise EdgeSkipError(f"the content of {name} is {type(content).__name__}: it must be text")
        checked.append(plain_data(message, name))
    return checked


def plain_data(value: Any, name: str, depth: int = 0) -> Any:
    """Return a copy of JSON-like data, in which a template finds nothing to call; EdgeSkipError for other types."""
    if depth > _DEEPEST:
        raise EdgeSkipError(f"{name} is nested more than {_DEEPEST} deep: flatten it")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(check_text(value, name))
    if isinstance(value, numbers.Integral):
        number = int(value)
        if number.bit_length() > _MOST_BITS:
            raise EdgeSkipError(f"{name} holds a number of thousands of digits: give it as text")
        return number
    if isinstance(value, numbers.Real):
        try:
            return float(value)
        except OverflowError:
            raise EdgeSkipError(f"{name} holds a number above {np.finfo(float).max:.2g}: give it as text") from None
    if isinstance(value, Mapping):
        return {_key(key, name): plain_data(one, name, depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(one, name, depth + 1) for one in value]
    raise EdgeSkipError(f"{name} holds {type(value).__name__}: give texts, numbers, lists and objects, as in JSON")


def _key(key: object, name: str) -> str:
    if not isinstance(key, str):
        raise EdgeSkipError(f"{name} has the key {shown(key, 40)}: keys must be text")
    return check_text(key, name)


def _short(number: int) -> str:
    return str(number) if abs(number) < 10**18 else f"{'-' * (number < 0)}2**{number.bit_length() - 1}"
