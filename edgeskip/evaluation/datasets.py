"""Where evaluation data lies, and its records as text. What the texts mean is the tasks' knowledge."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from edgeskip.core.errors import EdgeSkipError
from edgeskip.training.examples import read_records, text_of

Item = TypeVar("Item")


def default_data() -> Path:
    """Return the folder of the data files: $EDGESKIP_DATA, else ../shared/data."""
    return Path(os.environ.get("EDGESKIP_DATA") or Path("..") / "shared" / "data")


def locate(data: Path | None, names: Sequence[str], task: str) -> list[Path]:
    """Return the files `names` of the folder `data` (None = the default one); a file for `data` stands for a single
    name.

    Raises EdgeSkipError if one is missing.
    """
    folder = default_data() if data is None else data
    if folder.is_file():
        if len(names) != 1 or not names[0].endswith(".txt"):
            raise EdgeSkipError(f"--data {folder} is a file, which {task} cannot read: give the folder of its data")
        return [folder]
    if not folder.is_dir():
        raise EdgeSkipError(f"data folder {folder} does not exist; name one with --data or EDGESKIP_DATA")
    for name in names:
        if not (folder / name).is_file():
            raise EdgeSkipError(f"{folder} has no {name}, which {task} needs: choose another --data")
    return [folder / name for name in names]


def drawn(items: Sequence[Item], limit: int | None) -> list[Item]:
    """`limit` of them in an order drawn once, so that a larger limit goes on after a smaller one; None = all."""
    return random.Random(0).sample(items, len(items))[:limit]


def records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(place for messages, record) of a .jsonl or .tsv file; raises EdgeSkipError if it is damaged or has none."""
    found = list(read_records(path))
    if not found:
        raise EdgeSkipError(f"{path} has no records: choose another --data")
    return found


def text(record: dict[str, Any], field: str, where: str) -> str:
    """Return the record's text in `field`; EdgeSkipError, with the place, for one without."""
    return text_of(record, field, where)


def texts(record: dict[str, Any], field: str, where: str) -> tuple[str, ...]:
    """Return the record's list of texts in `field`; EdgeSkipError, with the place, for one without."""
    value = record.get(field)
    if not (isinstance(value, list) and value and all(isinstance(one, str) for one in value)):
        raise EdgeSkipError(f"{where} has no list of texts in the field {field!r}")
    return tuple(value)
