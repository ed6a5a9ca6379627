"""Names of targets that are told apart by themselves: what a table calls them, unless the user names them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def told_apart(paths: Sequence[Path], given: Sequence[str | None]) -> list[str]:
    """Return a name for each path: the one `given`, else the folder's, or the .gguf file's without its suffix.

    If two come out alike, the file gets its suffix back; if they still do, as many folders above as tell them apart
    stand before the name. One path given twice keeps one name, which is the caller's to refuse.
    """
    # Links are not followed: in the Hugging Face cache they lead to files that are called by their hash.
    absolute = [Path(os.path.normpath(path.absolute())) for path in paths]

    def name(number: int, level: int) -> str:
        if (chosen := given[number]) is not None:
            return chosen
        path = absolute[number]
        if level == 0:
            return path.name if path.is_dir() else path.stem
        return "/".join(path.parts[-level:])

    levels = [0] * len(paths)
    for _ in range(max((len(path.parts) for path in absolute), default=0)):
        names = [name(number, levels[number]) for number in range(len(paths))]
        alike = [
            number
            for number in range(len(paths))
            if any(names[other] == names[number] and absolute[other] != absolute[number] for other in range(len(paths)))
        ]
        if not alike:
            break
        for number in alike:
            levels[number] += 1
    return [name(number, levels[number]) for number in range(len(paths))]
