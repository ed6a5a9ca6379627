"""Where the files of a profile go, and writing them together: `NAME.json` and the binary files beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file

FORMAT: Final = "edgeskip-profile"


def vectors_path(path: Path) -> Path:
    """Return where the vectors file of a profile written to `path` goes."""
    return path.with_suffix(".safetensors")


def adapter_path(path: Path) -> Path:
    """Return where the LoRA of a profile written to `path` goes."""
    return path.with_suffix(".adapter.safetensors")


def refuse_output(path: Path, *, overwrite: bool) -> None:
    """Raise EdgeSkipError if a profile must not or cannot be written to `path`; call it before the work, not after.

    A file that is not a profile, such as a model's config.json, is never replaced, nor is a `.safetensors` file beside
    `path` that does not belong to the profile there.
    """
    if path.suffix != ".json":
        raise EdgeSkipError(f"{path} does not end in .json: name the profile, e.g.  -o {path.stem or 'llama'}.json")
    if "\\" in path.name:  # another machine may take it for a folder
        raise EdgeSkipError(f"{path} has a backslash in its name: choose another -o")
    if path.exists() and not overwrite:
        raise EdgeSkipError(f"{path} exists: choose another -o or add --overwrite")
    if path.is_file() and (text := path.read_text("utf-8", errors="replace").strip()) and f'"{FORMAT}"' not in text:
        raise EdgeSkipError(f"{path} exists and is not a profile; choose another -o")
    for beside in (vectors_path(path), adapter_path(path)):
        if beside.exists() and not _names(path, beside):
            raise EdgeSkipError(f"{beside} exists and belongs to no profile: choose another -o")
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise EdgeSkipError(f"cannot write to {folder}: check its permissions or choose another -o")


def write_together(
    path: Path, data: bytes, beside: Mapping[Path, bytes], *, overwrite: bool, has_adapter: bool
) -> None:
    """Replace the profile at `path` with `data` in one step, after the files `beside` it.

    If writing the profile fails or is interrupted, those files are put back as they were. The LoRA of the profile that
    was there before is removed if the new one has none (`has_adapter` false).

    Raises:
        EdgeSkipError: if a profile is there and `overwrite` is false, however lately it came.
    """
    before = {file: file.read_bytes() if file.exists() else None for file in beside}
    left_over = not has_adapter and _names(path, adapter_path(path))
    try:
        for file, content in beside.items():
            replace_file(file, content)
        replace_file(path, data, overwrite=overwrite)
    except BaseException:
        for file, old in before.items():
            if old is not None:
                replace_file(file, old)
            else:
                file.unlink(missing_ok=True)
        raise
    if left_over:
        adapter_path(path).unlink(missing_ok=True)


def _names(path: Path, beside: Path) -> bool:
    """Return whether there is a profile at `path` that names the file `beside` it."""
    return path.is_file() and json.dumps(beside.name, ensure_ascii=False) in path.read_text("utf-8", errors="replace")
