"""From what a user names to the artifact that can be opened: a folder of GGUF files stands for the one to run in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.artifacts.path_errors import MANIFEST_NAME, model_not_artifact, not_an_artifact
from edgeskip.core.errors import EdgeSkipError

if TYPE_CHECKING:
    from edgeskip.artifacts.gguf.manifest import GgufManifest


def artifact_at(path: Path) -> Path:
    """Return the artifact folder or .gguf file that `path` stands for.

    A folder without a manifest stands for the GGUF file in it that an export meant to be run: not the second half of a
    pair, a draft, or what takes over while decoding. EdgeSkipError, with what to do, if there are several to choose
    from, or if `path` is a model, a profile or a graph instead. Anything else is returned as it is.
    """
    if path.name == MANIFEST_NAME and path.is_file():
        return path.parent
    if path.is_file() and path.suffix.lower() in (".onnx", ".json", ".safetensors"):
        raise _other_file(path)
    if not path.exists():
        if (problem := _named_model(path)) is not None:
            raise problem
        return path
    if not path.is_dir() or (path / MANIFEST_NAME).is_file():
        return path
    files = _to_run(path)
    inside = sorted(manifest.parent for manifest in path.glob(f"*/{MANIFEST_NAME}"))
    if len(files) == 1 and not inside:
        return files[0]
    if files or inside:
        choices = ", ".join(str(choice) for choice in [*inside, *files])
        if len(files) + len(inside) == 1:
            raise EdgeSkipError(f"{path} is not an artifact itself: name the one in it, {choices}")
        raise EdgeSkipError(f"{path} holds several artifacts: name one of  {choices}")
    raise not_an_artifact(path)


def _named_model(path: Path) -> EdgeSkipError | None:
    """Return the error for a ready model's name; None for any other path that is not there."""
    from edgeskip.profiles.registry import READY_MODELS

    return model_not_artifact(str(path)) if str(path) in READY_MODELS else None


def _other_file(path: Path) -> EdgeSkipError:
    beside = path.parent / MANIFEST_NAME
    if beside.is_file():
        return EdgeSkipError(f"{path} is one file of an artifact: name its folder, {path.parent}")
    if path.suffix.lower() == ".json" and '"edgeskip-profile"' in _start(path):
        return EdgeSkipError(
            f"{path} is a profile, not an artifact: export it first, with  edgeskip export --profile {path} -o "
            f"{path.stem}-onnx"
        )
    if (path.parent / "config.json").is_file():
        return model_not_artifact(str(path.parent))
    return EdgeSkipError(f"{path} is neither an artifact folder nor a .gguf file: name what edgeskip export wrote")


def _start(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(4096).decode("utf-8", "replace")


def _to_run(folder: Path) -> list[Path]:
    """Return the GGUF files of a folder that are a model of their own, by name."""
    files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() == ".gguf" and file.is_file()]
    files = [file for file in files if not re.search(r"-(?!00001)\d{5}-of-\d{5}$", file.stem)]
    files = [file for file in files if not file.name.startswith("mmproj")]
    if len(files) < 2:
        return files
    manifests = {file: _manifest(file) for file in files}
    helpers = {name for found in manifests.values() if found for name in (found.draft, found.decode, found.partner)}
    firsts = [file for file, found in manifests.items() if found is not None and found.part == "first"]
    return [
        file for file in files
        if file in firsts or (file.name not in helpers and getattr(manifests[file], "part", "whole") != "rest")
    ]  # fmt: skip


def _manifest(file: Path) -> GgufManifest | None:
    """None for a file of others and for one that cannot be read: opening it says what is wrong."""
    try:
        from edgeskip.artifacts.gguf.header import read_gguf_header
        from edgeskip.artifacts.gguf.manifest import read_gguf_manifest

        return read_gguf_manifest(read_gguf_header(file).metadata, str(file))
    except (EdgeSkipError, ImportError, OSError):
        return None
