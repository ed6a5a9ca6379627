"""The folder of a run: who may write to it, whether a run goes on in it, and what it says of itself when done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file
from edgeskip.core.json_file import parse_json
from edgeskip.training.checkpoint import NAME as CHECKPOINT

RECORD = "train.json"  # written last: a folder that has it holds a finished run
STARTED = "run.json"  # the settings of a run that is not finished


def open_folder(folder: Path, settings: dict[str, Any], *, overwrite: bool, inputs: Sequence[Path] = ()) -> None:
    """Make `folder` this run's: a new or empty one, one where a run with the same settings was broken off, or,
    with `overwrite`, one of any earlier run. EdgeSkipError for any other, and where replacing it would remove one of
    `inputs`."""
    if folder.exists() and not folder.is_dir():
        raise EdgeSkipError(f"{folder} is a file: choose another -o")
    if folder.is_dir() and any(folder.iterdir()):
        found, done = _written_by_us(folder / STARTED, "optimisation"), _written_by_us(folder / RECORD, "settings")
        if found is None and done is None:
            raise EdgeSkipError(f"{folder} is not a run of edgeskip train, so it is not replaced: choose another -o")
        if overwrite:
            lost = next((path for path in inputs if folder.resolve() in path.resolve().parents), None)
            if lost is not None or folder.resolve() in [path.resolve() for path in inputs]:
                raise EdgeSkipError(f"{folder} holds what is to be trained ({lost or folder}): choose another -o")
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif done is not None:
            raise EdgeSkipError(f"{folder} holds a finished run: choose another -o, or replace it with --overwrite")
        else:
            assert found is not None
            different = sorted(name for name in found.keys() | settings.keys() if found.get(name) != settings.get(name))
            if different:
                raise EdgeSkipError(
                    f"{folder} holds a broken-off run with another {', '.join(different)}: repeat its command to go "
                    "on with it, choose another -o, or replace it with --overwrite"
                )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / STARTED, (json.dumps(settings, indent=2) + "\n").encode())
    except OSError as error:
        raise EdgeSkipError(f"cannot write to {folder} ({error.strerror}): choose another -o") from None


def close_folder(folder: Path, record: dict[str, Any]) -> None:
    """Mark the run as finished: `record` is what a card says of it. Removes what only a broken-off run needs."""
    replace_file(folder / RECORD, (json.dumps(record, indent=2) + "\n").encode())
    for name in (CHECKPOINT, STARTED):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "cache", ignore_errors=True)


def _written_by_us(path: Path, key: str) -> dict[str, Any] | None:
    """Return the JSON object at `path`.

    None if there is none, or none with `key`: other programs call files so too.
    """
    try:
        found = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and key in found else None
