"""Reading a JSON object from a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeskip.errors import EdgeSkipError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; EdgeSkipError where it is missing, unreadable or not an object."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgeSkipError(f"{path} cannot be read ({error.strerror}): fetch the model again") from None
    except (ValueError, RecursionError) as error:
        raise EdgeSkipError(f"{path} is not JSON ({error}): fetch the model again") from None
    if not isinstance(data, dict):
        raise EdgeSkipError(f"{path} is not a JSON object: fetch the model again")
    return data
