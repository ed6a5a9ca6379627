"""A target before anything of it runs: its label, plan, size, the strategies it can be decoded by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.artifacts.files import check_files
from edgeskip.artifacts.location import artifact_at
from edgeskip.artifacts.manifest import read_manifest
from edgeskip.artifacts.path_errors import MANIFEST_NAME
from edgeskip.bench.schema import ModelCost, Strategy, Target
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of

if TYPE_CHECKING:
    from edgeskip.artifacts.gguf.manifest import GgufManifest


def load_target(path: Path, name: str | None = None) -> Target:
    """Load the artifact folder or .gguf file at `path`. Raises EdgeSkipError if it is neither."""
    path, given = artifact_at(path), path
    if path.is_dir():
        return _folder(path, name or path.resolve().name)
    if path != given:  # a folder that stands for the file in it
        name = name or given.resolve().name
    if path.is_file() and path.suffix.lower() == ".gguf":
        return _gguf(path, name or path.stem)
    if path.exists():
        raise EdgeSkipError(f"{path} is neither an artifact folder nor a .gguf file; give what edgeskip export wrote")
    raise EdgeSkipError(f"{path} does not exist; give an artifact folder or a .gguf file")


def files_of(path: Path) -> list[Path]:
    """Return every file that is needed to run the target: a folder's, or a GGUF file and those its manifest names."""
    if path.is_dir():
        manifest = read_manifest(path)
        return [path / MANIFEST_NAME, *(path / name for name in sorted(manifest.files))]
    manifest_ = _gguf_manifest(path)
    names = [] if manifest_ is None else [manifest_.partner, manifest_.draft, manifest_.decode, manifest_.draft_head]
    beside = [path.with_name(n) for n in names if n and n == Path(n).name]
    return [path, *(file for file in beside if file.is_file())]


def baseline_of_targets(targets: Mapping[str, Target], name: str, baselines: Sequence[str]) -> Target | None:
    """Return the first named baseline with the same engine, else the first; with none named, the engine's first."""
    named = [one for one in baselines if one in targets] or list(targets)
    if name not in targets or not named:
        return None
    engine = targets[name].engine
    return targets[next((one for one in named if targets[one].engine == engine), named[0])]


def _folder(folder: Path, name: str) -> Target:
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    strategies: list[Strategy] = ["plain", "speculative"]  # any artifact can draft by n-grams
    if manifest.draft is not None:
        strategies.append("self-speculative")
    if manifest.online is not None:
        strategies.append("online")
    return Target(
        name=name,
        path=str(folder.absolute()),
        engine="onnxruntime",
        size_bytes=_size(folder),
        sha256=sha256_of(folder / MANIFEST_NAME),
        label=manifest.label,
        model=manifest.model.name,
        precision=manifest.graph.precision,
        plan=manifest.plan,
        strategies=strategies,
        work=_model_cost(folder),
    )


def _gguf(file: Path, name: str) -> Target:
    manifest = _gguf_manifest(file)
    strategies: list[Strategy] = ["plain", "speculative"]
    if manifest is not None and manifest.part == "rest":
        raise EdgeSkipError(f"{file} is the second half of a pair; give the first half, {manifest.partner}, beside it")
    if manifest is not None:
        there = {path.name for path in files_of(file)}
        if (manifest.part == "first" and manifest.partner in there) or manifest.draft in there:
            strategies.append("self-speculative")
        if manifest.decode in there:
            strategies.append("online")
    return Target(
        name=name,
        path=str(file.absolute()),  # not what a link leads to: its other half, draft or parts lie beside it
        engine="llama.cpp",
        size_bytes=_size(file),
        sha256=_digest(files_of(file)),
        label="dense" if manifest is None else manifest.pair_label,
        model=None if manifest is None else manifest.model.name,
        precision=None if manifest is None else manifest.precision,
        plan=None if manifest is None else manifest.plan,
        strategies=strategies,
        work=_model_cost(file) if manifest is None or manifest.part == "whole" else None,
    )


def _gguf_manifest(file: Path) -> GgufManifest | None:
    from edgeskip.artifacts.gguf.header import read_gguf_header
    from edgeskip.artifacts.gguf.manifest import read_gguf_manifest

    return read_gguf_manifest(read_gguf_header(file).metadata, str(file))


def _digest(files: list[Path]) -> str:
    """Return one hash over those of all files."""
    return hashlib.sha256("".join(sha256_of(file) for file in files).encode()).hexdigest()


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in files_of(path) if file.is_file())


def _model_cost(path: Path) -> ModelCost | None:
    """Return None if the onnx package is not installed, or the model is of a kind that cannot be counted."""
    from edgeskip.bench.model_cost import model_cost_of

    try:
        return model_cost_of(path)
    except (ModuleNotFoundError, EdgeSkipError):
        return None
