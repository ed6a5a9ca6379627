"""A path that someone named: an empty name is none, though Path("") is the current folder."""

from __future__ import annotations

from pathlib import Path

from edgeskip.core.errors import EdgeSkipError


def named_path(text: str | Path) -> Path:
    """Return `text` as a path; raises EdgeSkipError if it is empty, as an unset variable of a shell leaves it."""
    if isinstance(text, str) and not text.strip():
        raise EdgeSkipError("an empty name stands for no file or folder: name one (the current folder is .)")
    return Path(text)
