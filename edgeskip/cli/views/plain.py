"""Results as `--json` prints them: paths, records and dataclasses become plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel


def plain(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return `found` as JSON can hold it; None stays null."""
    values: dict[str, Any] = json.loads(json.dumps(found, default=_plain, ensure_ascii=False))
    return values


def _plain(value: object) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
