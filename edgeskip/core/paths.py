"""Paths: as users name them, and the folder of what EdgeSkip can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path

from edgeskip.core.errors import EdgeSkipError


def named_path(text: object) -> Path:
    """Return `text` as a path.

    Raises EdgeSkipError if it is empty, as an unset variable of a shell leaves it, or neither a text nor a path.
    """
    if not isinstance(text, str | os.PathLike):
        raise EdgeSkipError(f"a text or a path names a file or folder, not {type(text).__name__}; give one of them")
    if isinstance(text, str) and not text.strip():
        raise EdgeSkipError("an empty name stands for no file or folder: name one (the current folder is .)")
    return Path(text)


def cache_folder() -> Path:
    """Return `$EDGESKIP_CACHE`, else `edgeskip` in the user's cache folder."""
    from platformdirs import user_cache_path

    chosen = os.environ.get("EDGESKIP_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("edgeskip", appauthor=False)
