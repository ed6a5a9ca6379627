"""Fixtures of training's tests: data files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TEXT = "The quick brown fox reads tokens, skips what it does not need, and says so. "


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 30, encoding="utf-8")
    return path


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    """40 prompts with answers of different lengths."""
    path = tmp_path / "pairs.jsonl"
    records = [{"prompt": f"skip {n}", "response": TEXT[: 4 + n % 20] + str(n)} for n in range(40)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path
