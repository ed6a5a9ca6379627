"""`--chat-option NAME=VALUE`: what the user tells the chat template, from the words of the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from edgeskip.core.errors import EdgeSkipError

_SPELLINGS = {"True": True, "False": False, "None": None}  # Python's, which would otherwise be texts, and so true


def parse_chat_options(words: Sequence[str]) -> dict[str, Any]:
    """Return the values by name. A value is JSON (`false`, `8`, `"text"`, `["a"]`), else the text as it is.

    Raises:
        EdgeSkipError for a word without a name or an equals sign, and for a name that is given twice.
    """
    options: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise EdgeSkipError(f"--chat-option {word!r:.60} is not NAME=VALUE: write, say, enable_thinking=false")
        if name in options:
            raise EdgeSkipError(f"--chat-option {name} is given twice: give it once")
        if value in _SPELLINGS:
            options[name] = _SPELLINGS[value]
            continue
        try:
            options[name] = json.loads(value)
        except (ValueError, RecursionError):
            options[name] = value
    return options
