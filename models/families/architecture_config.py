"""Values of a model's config.json, checked when they are read: the file came from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeskip.core.errors import EdgeSkipError


@dataclass(frozen=True)
class ArchitectureConfig:
    """A config.json's content and the file it came from, for messages.

    Every reader raises an EdgeSkipError that names file and key if a value is missing or has the wrong type.
    A key whose value is null counts as absent, as it does for transformers.
    """

    values: Mapping[str, Any]
    file: str

    def wrong(self, key: str, expected: str) -> EdgeSkipError:
        value = repr(self.values.get(key))
        shown = value if len(value) <= 60 else value[:57] + "…"
        return EdgeSkipError(f"{self.file}: {key!r} is {shown}, expected {expected}: is this the model's own config?")

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def integer(self, key: str, default: int | None = None, *, least: int = 1, most: int = 2**31) -> int:
        value = self.values[key] if self.has(key) else default
        if value is None:
            raise EdgeSkipError(f"{self.file}: {key!r} is missing: fetch the model again")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(key, f"a whole number from {least} to {most}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values[key] if self.has(key) else default
        if value is None:
            raise EdgeSkipError(f"{self.file}: {key!r} is missing: fetch the model again")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise self.wrong(key, "a positive number")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.values[key] if self.has(key) else default
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def text(self, key: str, default: str) -> str:
        value = self.values[key] if self.has(key) else default
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def table(self, key: str) -> dict[str, Any]:
        """Return a JSON object; empty if absent."""
        value = self.values[key] if self.has(key) else {}
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return value

    def per_block(self, key: str, num_blocks: int) -> list[Any] | None:
        """Return a list with one entry for each block (more are ignored, as transformers does); None if absent."""
        if not self.has(key):
            return None
        value = self.values[key]
        if not isinstance(value, list) or len(value) < num_blocks:
            raise self.wrong(key, f"a list with {num_blocks} entries, one per block")
        return value[:num_blocks]
