"""Where a profile's model lies: stored when it is calibrated, found again when profile, model or user have moved."""

from __future__ import annotations

import os
import re
from pathlib import Path, PureWindowsPath

from pydantic import BaseModel, ConfigDict, Field

from edgeskip.profiles.registry import READY_MODELS


class ModelLocation(BaseModel):
    """Where a calibrated model lies on the disk; a preset model and one of the hub have none, for their names do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    absolute: str = Field(min_length=1, description="Its path on the machine that calibrated it")
    relative: str | None = Field(
        default=None, description="Its path from the profile's folder, with / on every system; None on another drive"
    )


def location_of(model: Path, profile: Path) -> ModelLocation:
    """Return where `model` lies, for a profile that is written to `profile`: absolute, and relative to the profile's
    folder.

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


def relocated(source: str, location: ModelLocation, old: Path, new: Path) -> ModelLocation:
    """Return the location of the model `source` for a profile that moves from `old` to `new`."""
    there = [path for path in candidates(source, location, old) if exists(path)]
    if not there and os.path.realpath(old) == os.path.realpath(new):
        return location
    return location_of(there[0] if there else Path(location.absolute), new)


def candidates(source: str, location: ModelLocation | None, path: Path) -> list[Path]:
    """Return where to look for the model `source` of the profile at `path`, in order, each place once: relative to the
    profile, where it was, and as it was typed."""
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
    """Return whether a profile without a location may mean a path; a name of ours never does."""
    return bool(source) and source not in READY_MODELS and not re.match(r"\w+://", source)


def exists(path: Path) -> bool:
    """Return whether `path` is there; False for one that the system cannot look at."""
    try:
        return path.exists()
    except OSError:  # a name too long for the file system, a folder that may not be entered
        return False
