"""The files of one artifact as they are here, with their checksums: what has to be on the other side, and under which
key."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgeskip.artifacts.manifest import read_manifest
from edgeskip.artifacts.path_errors import MANIFEST_NAME
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of

_SPLIT = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True)
class ArtifactFile:
    path: Path
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True)
class ArtifactFiles:
    """`key` tells it from others; `opened` is the name of the file that is opened, "" for the folder itself."""

    key: str
    opened: str
    files: tuple[ArtifactFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def list_artifact_files(path: Path) -> ArtifactFiles:
    """A folder's files as its manifest lists them, or a .gguf file and those it names; reads every byte once.

    EdgeSkipError where one is missing or is not what the manifest says; MissingExtraError for a .gguf without gguf.
    """
    if path.suffix == ".gguf" and not path.is_dir():
        return _gguf(path)
    expected = read_manifest(path).files
    for name in expected:
        if not name or name in {".", ".."} or re.search(r"[/\\\x00]", name):
            raise EdgeSkipError(f"{path / MANIFEST_NAME} is damaged: it lists {name!r}: export again")
    files = [_file(path / MANIFEST_NAME)]
    for name, digest in sorted(expected.items()):
        file = _file(path / name)
        if file.sha256 != digest:
            raise EdgeSkipError(f"{file.path} is not the file that was exported (its sha256 differs): export again")
        files.append(file)
    return ArtifactFiles(files[0].sha256, "", tuple(files))


def _gguf(path: Path) -> ArtifactFiles:
    main = _file(path)
    beside = [path.with_name(name) for name in _companions(path)]
    if match := _SPLIT.fullmatch(path.name):
        count = int(match["count"])
        parts = (f"{match['stem']}-{n:05}-of-{count:05}.gguf" for n in range(1, count + 1))
        beside += [path.with_name(name) for name in parts if name != path.name]
    return ArtifactFiles(main.sha256, path.name, (main, *map(_file, beside)))


def _companions(path: Path) -> list[str]:
    """Files beside a GGUF that are opened with it."""
    from edgeskip.artifacts.gguf.inspection import inspect_gguf

    manifest = inspect_gguf(path).manifest
    if manifest is None:
        return []
    names = (manifest.partner, manifest.draft, manifest.draft_head, manifest.decode)
    for name in filter(None, names):
        if re.search(r"[/\\\x00]", name) or name in {".", ".."}:
            raise EdgeSkipError(f"{path} is damaged: it names the file {name!r}: export again")
    return [name for name in names if name]


def _file(path: Path) -> ArtifactFile:
    try:
        return ArtifactFile(path, path.stat().st_size, sha256_of(path))
    except FileNotFoundError:
        raise EdgeSkipError(f"{path} is missing: it belongs to the artifact; export again") from None
    except OSError as error:
        raise EdgeSkipError(f"cannot read {path} ({error.strerror}): check the path and its permissions") from None
