"""Numbers of the tokens in a tokenizer.json: the library that reads it reserves memory up to the highest, and ends the
process if there is none."""

from __future__ import annotations

from typing import Any

MOST_TOKENS = 1 << 24  # 64 times the largest vocabulary there is


def check_token_numbers(tokenizer: Any) -> None:
    """Check the parsed content of a tokenizer.json; what is not an object is left to the library.

    Raises:
        ValueError: If a token has a number that no vocabulary has.
    """
    if not isinstance(tokenizer, dict):
        return
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    numbers = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    numbers += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    highest = max((number for number in numbers if isinstance(number, int)), default=0)
    if highest >= MOST_TOKENS:
        raise ValueError(f"a token has the number {highest}")
