"""The profiles that ship with EdgeSkip (presets), by name, and where this install has them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from edgeskip.core.errors import EdgeSkipError

PACKAGE = "edgeskip_presets"  # import name of the distribution edgeskip-presets
INSTALL_PRESETS = "pip install 'edgeskip[presets]' (from a checkout: pip install ./models/presets)"


def presets_folder() -> Path | None:
    """Return the folder that holds the presets, or None if they are not installed.

    A checkout (or an editable install of one) has them in `models/presets`; everywhere else the distribution
    edgeskip-presets brings them. The checkout comes first, so that its code never meets another version's presets.
    """
    if (checkout := _checkout_presets()) is not None:
        return checkout
    found = find_spec(PACKAGE)
    places = (found.submodule_search_locations if found else None) or ()
    return next((Path(place) for place in places if Path(place).is_dir()), None)


def _checkout_presets() -> Path | None:
    models = find_spec("edgeskip.models")
    for place in (models.submodule_search_locations if models else None) or ():
        folder = Path(place).resolve() / "presets"
        if (folder / "pyproject.toml").is_file():
            return folder
    return None


def ready_profiles() -> dict[str, Path]:
    """Return name → path of every preset; its vectors file stands beside it. Empty if none are installed."""
    folder = presets_folder()
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.json"))}


def ready_profile(name: str) -> Path:
    """Return the path of the preset called `name`.

    Raises:
        EdgeSkipError: if there is no such preset; names those there are, or how to install them.
    """
    profiles = ready_profiles()
    if name in profiles:
        return profiles[name]
    make = "edgeskip calibrate MODEL -o llama.json makes a profile"
    if not profiles:
        raise EdgeSkipError(
            f"profile {name} does not exist; {make}; the presets that ship with EdgeSkip are not installed: "
            f"{INSTALL_PRESETS}"
        )
    raise EdgeSkipError(f"profile {name} does not exist; {make}; EdgeSkip ships with {', '.join(profiles)}")
