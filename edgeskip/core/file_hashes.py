"""Hashes of large files, computed once: they are remembered with what the file system says of the file, any change of
which makes them be computed again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeskip.core.files import replace_file, sha256_of
from edgeskip.core.json_file import parse_json


class KnownHashes:
    """The hashes of files in one folder, remembered in its file `memory`; if that cannot be written, it costs time."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory

    def sha256(self, path: Path) -> str:
        """Hex sha256 of the file at `path`. OSError as reading it raises."""
        known, state = self._read(), _state_of(path)
        name = path.relative_to(self._memory.parent).as_posix()
        entry = known.get(name)
        if isinstance(entry, list) and entry[:-1] == state and isinstance(entry[-1], str):
            return entry[-1]
        found = sha256_of(path)
        with suppress(OSError):
            if _state_of(path) == state:  # not written to meanwhile
                replace_file(self._memory, json.dumps({**known, name: [*state, found]}).encode())
        return found

    def _read(self) -> Mapping[str, Any]:
        try:
            found = parse_json(self._memory.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _state_of(path: Path) -> list[int]:
    """Return bytes, times and inode. The time of change cannot be set, unlike that of modification."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
