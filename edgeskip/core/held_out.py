"""The text that losses are measured on: written for this purpose; nothing is calibrated or trained on it."""

from __future__ import annotations

from pathlib import Path

HELD_OUT_TEXT = Path(__file__).with_name("quality.txt")
