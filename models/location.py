"""Open the model of a profile at its present place."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.core.errors import EdgeSkipError
from edgeskip.profiles.location import ModelLocation, candidates, exists, location_of

if TYPE_CHECKING:
    from edgeskip.models.source import ModelSource
    from edgeskip.profiles.schema import Profile


def location_for(source: ModelSource, profile: Path) -> ModelLocation | None:
    """Return the location of a calibrated model (of its base, if it has a LoRA); None for a preset and a hub id."""
    from edgeskip.models.locate import existing_path

    base = source.adaptation.base if source.adaptation else source
    return None if existing_path(base.reference) is None else location_of(base.path, profile)


def found_at(profile: Profile, path: Path) -> Path | None:
    """Return where the model of the profile at `path` is now; None if it is not found, or is a name."""
    return next(filter(exists, candidates(profile.model.source, profile.model_location, path)), None)


def open_located(profile: Profile, path: Path, fingerprint: str) -> ModelSource | None:
    """Open the model of the profile at `path`; None if the profile names a preset or a hub id instead of a path.

    Of several that are there the one with the `fingerprint` is taken. Raises EdgeSkipError if there is none, with
    every path that was tried.
    """
    from edgeskip.models.locate import is_name
    from edgeskip.models.source import open_model

    source, places = profile.model.source, candidates(profile.model.source, profile.model_location, path)
    there = _distinct([place for place in places if exists(place)])
    if not there:
        if profile.model_location is None and is_name(source):
            return None
        tried = ", ".join(map(str, places))
        raise EdgeSkipError(f"the model of {path.name}, {source!r}, is not there (tried {tried}): name it with --model")
    opened: list[ModelSource] = []
    errors: list[EdgeSkipError] = []
    for candidate in there:
        try:
            model = open_model(str(candidate))
        except EdgeSkipError as error:
            errors.append(error)
            continue
        if len(there) == 1 or model.fingerprint == fingerprint:
            return replace(model, reference=source)
        opened.append(model)
    if not opened:
        raise errors[0]
    return replace(opened[0], reference=source)


def _distinct(paths: list[Path]) -> list[Path]:
    return list({os.path.realpath(path): path for path in reversed(paths)}.values())[::-1]
