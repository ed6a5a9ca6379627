"""The files of an artifact and how they get to the remote machine: once, resumed after a cut, checked by checksums."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeskip.artifacts.manifest import read_manifest
from edgeskip.artifacts.path_errors import MANIFEST_NAME
from edgeskip.bench.devices.ssh.connection import ConnectionLostError
from edgeskip.bench.devices.ssh.machine import ANSWER_S, RemoteMachine
from edgeskip.bench.runner.launcher import StatusCallback
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of

_SPLIT = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True)
class SourceFile:
    path: Path
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True)
class ArtifactFiles:
    """`key` identifies it; `opened` is the name of the file that is opened, "" for the folder itself."""

    key: str
    opened: str
    files: tuple[SourceFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def list_artifact_files(path: Path) -> ArtifactFiles:
    """List a folder's files from its manifest, or a .gguf file and those it names; reads every byte once.

    Raises EdgeSkipError if one is missing or is not what the manifest says; MissingExtraError for a .gguf without gguf.
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
    """Return the names of files beside a GGUF that are opened with it."""
    from edgeskip.artifacts.gguf.inspection import inspect_gguf

    manifest = inspect_gguf(path).manifest
    if manifest is None:
        return []
    names = (manifest.partner, manifest.draft, manifest.draft_head, manifest.decode)
    for name in filter(None, names):
        if re.search(r"[/\\\x00]", name) or name in {".", ".."}:
            raise EdgeSkipError(f"{path} is damaged: it names the file {name!r}: export again")
    return [name for name in names if name]


def _file(path: Path) -> SourceFile:
    try:
        return SourceFile(path, path.stat().st_size, sha256_of(path))
    except FileNotFoundError:
        raise EdgeSkipError(f"{path} is missing: it belongs to the artifact; export again") from None
    except OSError as error:
        raise EdgeSkipError(f"cannot read {path} ({error.strerror}): check the path and its permissions") from None


ATTEMPTS = 3  # broken connections in a row, none of which brought anything
RETRY_S = 2.0  # pause after the first of them; it doubles
SPARE_BYTES = 32_000_000  # left free
HASH_RATE = 5e6  # bytes a second that the slowest card surely reads
SEND_RATE = 2e4  # bytes a second of the slowest line; a line that stands still is given up much sooner
_CHUNK = 1 << 20
_REPORT_EVERY_S = 1.0  # between two reports of progress
_REPORT_FROM_BYTES = 1_000_000  # smaller files are not reported


def copy_artifact(remote: RemoteMachine, artifact: ArtifactFiles, folder: str, progress: StatusCallback) -> None:
    """Copy all files of the artifact to `folder` there. Files that are there and right are not copied again.

    Raises EdgeSkipError if there is no room, a file arrives damaged twice, or the connection breaks again and again;
    what came is kept for the next call.
    """
    copy = _Copy(remote, artifact, folder, progress)
    failures, sent = 0, 0
    while True:
        try:
            copy.missing_files()
            return
        except ConnectionLostError as error:
            failures = failures + 1 if copy.sent == sent else 1
            sent = copy.sent
            if failures >= ATTEMPTS:
                raise EdgeSkipError(f"{error}; what was copied is kept, and copying goes on from there") from None
            progress(f"{remote.named}: the connection broke off, connecting again")
            time.sleep(RETRY_S * 2.0 ** (failures - 1))


class _Copy:
    """`sent`: bytes that have been given to ssh so far, of all attempts."""

    def __init__(self, remote: RemoteMachine, artifact: ArtifactFiles, folder: str, progress: StatusCallback) -> None:
        self.sent = 0
        self._remote, self._artifact, self._folder, self._progress = remote, artifact, folder, progress
        self._reported = 0.0

    def missing_files(self) -> None:
        states = self._states()
        missing = [(file, state) for file, state in zip(self._artifact.files, states, strict=True) if not state.whole]
        for file, state in missing:
            if state.damaged:
                self._progress(f"{self._remote.named}: its copy of {file.name} is damaged, copying again")
            if not self._file(file, state.part) and not self._file(file, 0):
                raise EdgeSkipError(
                    f"{self._remote.named}: {file.name} arrived damaged twice: check that {file.path} is not being "
                    "written, and the other side's disk"
                )

    def _states(self) -> list[_FileState]:
        files = [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in self._artifact.files]
        limit_s = ANSWER_S + self._artifact.size / HASH_RATE
        answer = self._remote.ask("file_states", self._progress, limit_s=limit_s, folder=self._folder, files=files)
        states = [_FileState(**state) for state in answer["states"]]
        needed = sum(
            max(0, file.size - state.part)
            for file, state in zip(self._artifact.files, states, strict=True)
            if not state.whole
        )
        if needed and answer["free_bytes"] < needed + SPARE_BYTES:
            raise EdgeSkipError(
                f"{self._remote.named} has {answer['free_bytes'] / 1e6:.0f} MB free in {self._folder}, copying takes "
                f"{(needed + SPARE_BYTES) / 1e6:.0f} MB: free some, or choose another folder with --remote-cache"
            )
        return states

    def _file(self, file: SourceFile, start: int) -> bool:
        """Send the file from byte `start` on; return whether it arrived intact."""
        start = start if start <= file.size else 0
        answer = self._remote.ask(
            "receive",
            self._progress,
            payload=lambda: self._pieces(file, start),
            limit_s=ANSWER_S + file.size / HASH_RATE + (file.size - start) / SEND_RATE,
            folder=self._folder,
            name=file.name,
            offset=start,
            size=file.size,
            sha256=file.sha256,
        )
        return bool(answer["right"])

    def _pieces(self, file: SourceFile, start: int) -> Iterator[bytes]:
        done = start
        with file.path.open("rb") as opened:
            opened.seek(start)
            while done < file.size:
                piece = opened.read(min(_CHUNK, file.size - done))
                if not piece:
                    raise EdgeSkipError(f"{file.path} has become shorter: start again")
                yield piece
                done += len(piece)
                self.sent += len(piece)
                self._report(file, done)

    def _report(self, file: SourceFile, done: int) -> None:
        now = time.monotonic()
        if file.size >= _REPORT_FROM_BYTES and (now - self._reported >= _REPORT_EVERY_S or done == file.size):
            self._reported = now
            self._progress(f"{self._remote.named}: copying {file.name}, {done / 1e6:.0f} of {file.size / 1e6:.0f} MB")


@dataclass(frozen=True)
class _FileState:
    """What is there of a file."""

    whole: bool
    damaged: bool
    part: int
