"""Where EdgeSkip keeps what it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$EDGESKIP_CACHE`, else `edgeskip` in the user's cache folder."""
    from platformdirs import user_cache_path

    chosen = os.environ.get("EDGESKIP_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("edgeskip", appauthor=False)
