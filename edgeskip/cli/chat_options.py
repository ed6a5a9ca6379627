"""`--chat-option NAME=VALUE`: variables for the chat template, from the words of the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from edgeskip.core.errors import EdgeSkipError

_PYTHON_SPELLINGS = {"True": True, "False": False, "None": None}  # as JSON they would be texts, and so true


def parse_chat_options(words: Sequence[str] | None, *, raw: bool = False) -> dict[str, Any]:
    """Return the values of `--chat-option NAME=VALUE` by name; a value is JSON (`false`, `8`, `["a"]`), else text.

    Args:
        words: What was typed.
        raw: Whether the chat template is left out, and options for it make no sense.

    Raises:
        EdgeSkipError: If a word lacks a name or an equals sign, or a name occurs twice.
    """
    options: dict[str, Any] = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise EdgeSkipError(
                f"--chat-option {word!r:.60} is not NAME=VALUE; write for example enable_thinking=false"
            )
        if name in options:
            raise EdgeSkipError(f"--chat-option {name} is given twice; give it once")
        if value in _PYTHON_SPELLINGS:
            options[name] = _PYTHON_SPELLINGS[value]
            continue
        try:
            options[name] = json.loads(value)
        except (ValueError, RecursionError):
            options[name] = value
    if raw and options:
        raise EdgeSkipError("--chat-option has no effect with --raw, which leaves out the chat template; drop one")
    return options
