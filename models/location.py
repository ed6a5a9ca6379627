"""Where a profile's model lies: stored when it is calibrated, found again when profile, model or user have moved."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from edgeskip.core.errors import EdgeSkipError
from edgeskip.profiles.schema import ModelLocation, Profile

if TYPE_CHECKING:
    from edgeskip.models.source import ModelSource


def location_of(model: Path, profile: Path) -> ModelLocation:
    """Where `model` lies, for a profile that is written to `profile`: absolute, and relative to the profile's folder.

    Links to the model are kept as they are (a file of the Hugging Face cache has its name from its link alone); folders
    above it are resolved, so that `..` means the same to every reader.
    """
    absolute = Path(os.path.normpath(model.expanduser().absolute()))
    real = Path(os.path.realpath(absolute.parent)) / absolute.name if absolute.name else absolute
    try:
        relative = Path(os.path.relpath(real, os.path.realpath(profile.absolute().parent))).as_posix()
    except ValueError:  # on another drive
        relative = None
    return ModelLocation(absolute=str(absolute), relative=relative)


def location_for(source: ModelSource, profile: Path) -> ModelLocation | None:
    """The location of a calibrated model (of its base, if it has a LoRA); None for a ready model and a hub id."""
    from edgeskip.models.locate import existing_path

    base = source.adaptation.base if source.adaptation else source
    return None if existing_path(base.reference) is None else location_of(base.path, profile)


def relocated(profile: Profile, old: Path, new: Path) -> Profile:
    """The profile read from `old` as it must be written to `new`: its model's location relative to that."""
    if profile.model_location is None:
        return profile
    there = [path for path in _candidates(profile, old) if _exists(path)]
    if not there and os.path.realpath(old) == os.path.realpath(new):
        return profile
    model = there[0] if there else Path(profile.model_location.absolute)
    return profile.model_copy(update={"model_location": location_of(model, new)})


def found_at(profile: Profile, path: Path) -> Path | None:
    """Where the model of the profile at `path` is now; None if it is not found, or is no path but a name."""
    return next((candidate for candidate in _candidates(profile, path) if _exists(candidate)), None)


def open_located(profile: Profile, path: Path, fingerprint: str) -> ModelSource | None:
    """The model of the profile at `path`, opened; None if the profile names no path but a ready model or a hub id.

    Of several that are there the one with the `fingerprint` is taken. EdgeSkipError if there is none, with every path
    that was tried.
    """
    from edgeskip.models.locate import is_name
    from edgeskip.models.source import open_model

    source, candidates = profile.model.source, _candidates(profile, path)
    there = _distinct([candidate for candidate in candidates if _exists(candidate)])
    if not there:
        if profile.model_location is None and is_name(source):
            return None
        tried = ", ".join(map(str, candidates))
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


def _candidates(profile: Profile, path: Path) -> list[Path]:
    """Where to look, in order, each place once: relative to the profile, where it was, and as it was typed."""
    source, location = profile.model.source, profile.model_location
    folders = list(dict.fromkeys([Path(os.path.realpath(path.absolute().parent)), Path(os.path.realpath(path)).parent]))
    found: list[Path] = []
    if location is not None:
        if location.relative is not None:
            found += [Path(os.path.normpath(folder / location.relative)) for folder in folders]
        found.append(Path(location.absolute))
    if location is not None or _may_be_path(source):
        for spelling in dict.fromkeys([source, PureWindowsPath(source).as_posix()]):
            try:
                typed = Path(spelling).expanduser()
            except RuntimeError:  # the home of an unknown user
                continue
            found += [
                Path(os.path.normpath(typed.absolute())),
                *(Path(os.path.normpath(folder / typed)) for folder in folders),
            ]
    return list(dict.fromkeys(found))


def _may_be_path(source: str) -> bool:
    """Whether a profile without a location may mean a path; a name of ours never does."""
    from edgeskip.profiles.registry import READY_MODELS

    return bool(source) and source not in READY_MODELS and not re.match(r"\w+://", source)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long for the file system, a folder that may not be entered
        return False


def _distinct(paths: list[Path]) -> list[Path]:
    return list({os.path.realpath(path): path for path in reversed(paths)}.values())[::-1]
