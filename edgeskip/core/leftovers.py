"""What a process that was killed left beside its output: unfinished files, and what they were to replace."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgeskip.core.locks import is_claimed
from edgeskip.core.notes import note

# `.NAME.RANDOM` + one of these, a folder beside the output NAME.
PART, OLD = ".edgeskip-part", ".edgeskip-old"
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}(?P<kind>\.edgeskip-(?:part|old))")


@dataclass(frozen=True)
class Leftover:
    """A folder of unfinished work (`is_old` false), or of what was at `target` before the work was to replace it."""

    folder: Path
    target: Path
    is_old: bool

    @property
    def size(self) -> int:
        """Bytes of its files."""
        total = 0
        for path in self.folder.rglob("*"):
            with suppress(OSError):
                total += path.lstat().st_size if not path.is_dir() else 0
        return total


def leftovers_in(folder: Path) -> list[Leftover]:
    """Return those in `folder` whose process has ended."""
    found = [leftover for leftover in _named_so(folder) if not is_claimed(leftover.target)]
    return sorted(found, key=lambda leftover: leftover.folder)


def clean_up(target: Path) -> None:
    """Remove what a killed process left beside `target`, which this process has claimed, and note it.

    What was at `target` is put back if the process was killed between taking it away and putting the new in its place.
    """
    for leftover in _named_so(target.parent):
        if leftover.target.name != target.name:
            continue
        kept = leftover.folder / target.name
        if leftover.is_old and kept.exists() and not target.exists():
            kept.rename(target)
            note(f"put back {target}, which an interrupted process had moved away")
        else:
            megabytes = leftover.size / 1e6
            note(f"removing {leftover.folder} ({megabytes:.1f} MB), left by an interrupted process")
        shutil.rmtree(leftover.folder, ignore_errors=True)


def _named_so(folder: Path) -> list[Leftover]:
    try:
        paths = [path for path in folder.iterdir() if path.name.endswith((PART, OLD)) and path.is_dir()]
    except OSError:
        return []
    matches = [(path, _LEFTOVER.fullmatch(path.name)) for path in paths if not path.is_symlink()]
    return [Leftover(path, folder / match["name"], match["kind"] == OLD) for path, match in matches if match]
