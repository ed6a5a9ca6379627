"""Puts `tools/` on the path: its scripts are run from there, not installed."""

from __future__ import annotations

import sys
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"
for folder in (TOOLS, TOOLS / "peers" / "workers"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
