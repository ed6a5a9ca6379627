"""The folder of a run: who may write to it, whether a run goes on in it, and what it says of itself when done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from edgeskip.errors import EdgeSkipError
from edgeskip.files import replace_file
from edgeskip.training.state_file import NAME as CHECKPOINT

RECORD = "train.json"  # written last: a folder that has it holds a finished run
STARTED = "run.json"  # the settings of a run that is not finished


def open_folder(folder: Path, settings: dict[str, Any], *, overwrite: bool) -> None:
    """Makes `folder` this run's: a new or empty one, one where a run with the same settings was broken off, or,
    with `overwrite`, one of any earlier run. EdgeSkipError for any other."""
    if folder.exists() and not folder.is_dir():
        raise EdgeSkipError(f"{folder} is a file: choose another -o")
    if folder.is_dir() and any(folder.iterdir()):
        started, done = folder / STARTED, folder / RECORD
        if not (started.is_file() or done.is_file()):
            raise EdgeSkipError(f"{folder} is not a run of edgeskip train, so it is not replaced: choose another -o")
        if overwrite:
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif done.is_file():
            raise EdgeSkipError(f"{folder} holds a finished run: choose another -o, or replace it with --overwrite")
        else:
            found = json.loads(started.read_text(encoding="utf-8"))
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
    """Marks the run as finished: `record` is what a card says of it. Removes what only a broken-off run needs."""
    replace_file(folder / RECORD, (json.dumps(record, indent=2) + "\n").encode())
    for name in (CHECKPOINT, STARTED):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "cache", ignore_errors=True)
