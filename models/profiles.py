"""The profiles that ship with EdgeSkip, by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from edgeskip.errors import EdgeSkipError


def ready_profiles() -> dict[str, Path]:
    """Name → path of every profile in this folder; its vectors file stands beside it."""
    folder = Path(str(files("edgeskip.models")))
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def ready_profile(name: str) -> Path:
    """The path of the profile that ships under `name`; EdgeSkipError names those that do."""
    profiles = ready_profiles()
    if name not in profiles:
        raise EdgeSkipError(
            f"there is no profile {name}: name a profile (edgeskip calibrate MODEL -o llama.json makes one) "
            f"or one that ships with EdgeSkip ({', '.join(profiles) or 'none'})"
        )
    return profiles[name]
