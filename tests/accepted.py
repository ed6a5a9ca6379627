"""Makes an artifact's manifest that of the folder as a test has changed it."""

from __future__ import annotations

import json
from pathlib import Path

from edgeskip.artifacts.path_errors import MANIFEST_NAME
from edgeskip.core.files import sha256_of


def accept_changes(folder: Path) -> None:
    """Lists every file in `folder` with the hash it has now."""
    path = folder / MANIFEST_NAME
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["files"] = {
        file.name: sha256_of(file) for file in sorted(folder.iterdir()) if file.is_file() and file != path
    }
    path.write_text(json.dumps(manifest), encoding="utf-8")
