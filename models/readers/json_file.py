"""Reading a JSON object from a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.json_file import read_json as read_any


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raises EdgeSkipError if it is missing, unreadable or not an object."""
    try:
        data = read_any(path, "damaged", "fetch the model again", finite=False)
    except OSError as error:
        raise EdgeSkipError(f"{path} cannot be read ({error.strerror}): fetch the model again") from None
    if not isinstance(data, dict):
        raise EdgeSkipError(f"{path} is not a JSON object: fetch the model again")
    return data
