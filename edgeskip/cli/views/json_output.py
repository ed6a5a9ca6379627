"""`--json`: one object on standard output, and nothing else there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel


def print_json(found: Mapping[str, Any]) -> None:
    """Print `found`; paths, records and dataclasses in it become plain values, None stays null."""
    print(json.dumps(found, default=_plain, ensure_ascii=False, indent=1))


def _plain(value: object) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
