"""Lists that someone types, separated by commas: the one parser of every option that takes several values."""

from __future__ import annotations

from collections.abc import Sequence

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.whole_number import whole_number


def parse_names(text: str, option: str, choices: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the names between the commas of `text`, each once, in order.

    Args:
        text: What was typed, e.g. `"cpu, cuda"`; spaces and empty entries are ignored.
        option: What errors call it, e.g. `"--provider"`.
        choices: The names there are, in lower case; then case does not matter. None = any name.

    Raises:
        EdgeSkipError: If there is no name, or one that is not among `choices`.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise EdgeSkipError(f"{option} {text!r:.60} names nothing; name at least one")
    if choices is not None:
        names = [name.lower() for name in names]
        if unknown := [name for name in names if name not in choices]:
            raise EdgeSkipError(f"{option} {unknown[0]:.60} is unknown; choose from {', '.join(choices)}")
    return tuple(dict.fromkeys(names))


def parse_numbers(
    text: str, option: str, *, least: int = 0, most: int = 10**18, example: str = "4,8,12"
) -> tuple[int, ...]:
    """Return the whole numbers between the commas of `text`, each once, in order.

    Args:
        text: What was typed, e.g. `"0, 512"`.
        option: What errors call it, e.g. `"--contexts"`.
        least: The smallest number allowed.
        most: The largest number allowed.
        example: A list that errors show.

    Raises:
        EdgeSkipError: If an entry is not a whole number of 1 … 18 digits, or not from `least` to `most`.
    """
    numbers = [whole_number(word.strip()) for word in text.split(",")]
    found = [number for number in numbers if number is not None and least <= number <= most]
    if len(found) < len(numbers):
        bound = f" of at least {least}" if least else ""
        bound += f" and at most {most}" if any(number is not None and number > most for number in numbers) else ""
        typed = text.strip() or "''"
        raise EdgeSkipError(
            f"{option} {typed:.60} is not a list of whole numbers{bound}; write e.g. {option} {example}"
        )
    return tuple(dict.fromkeys(found))
