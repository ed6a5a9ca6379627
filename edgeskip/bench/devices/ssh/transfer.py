"""An artifact onto the remote machine: once, resumed after a cut, checked there by its checksums."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from edgeskip.bench.devices.ssh.artifact import ArtifactFile, ArtifactFiles
from edgeskip.bench.devices.ssh.connection import ConnectionLostError
from edgeskip.bench.devices.ssh.machine import ANSWER_S, RemoteMachine
from edgeskip.bench.runner.launcher import StatusCallback
from edgeskip.core.errors import EdgeSkipError

ATTEMPTS = 3  # broken connections in a row, none of which brought anything
RETRY_S = 2.0  # pause after the first of them; it doubles
SPARE_BYTES = 32_000_000  # left free besides
HASH_RATE = 5e6  # bytes a second that the slowest card surely reads
SEND_RATE = 2e4  # bytes a second of the slowest line; a line that stands still is given up much sooner
_CHUNK = 1 << 20
_REPORT_EVERY_S = 1.0  # between two words on the progress
_REPORT_FROM_BYTES = 1_000_000  # smaller files are not worth a word


def copy_artifact(remote: RemoteMachine, artifact: ArtifactFiles, folder: str, progress: StatusCallback) -> None:
    """`folder` there holds all files of the artifact, whole. Files that are there and right are not copied again.

    EdgeSkipError where there is no room, a file arrives damaged twice, or the connection breaks again and again; what
    came is kept for the next call.
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
        self._told = 0.0

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

    def _file(self, file: ArtifactFile, start: int) -> bool:
        """From byte `start` on; whether it arrived as it is here."""
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

    def _pieces(self, file: ArtifactFile, start: int) -> Iterator[bytes]:
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
                self._tell(file, done)

    def _tell(self, file: ArtifactFile, done: int) -> None:
        now = time.monotonic()
        if file.size >= _REPORT_FROM_BYTES and (now - self._told >= _REPORT_EVERY_S or done == file.size):
            self._told = now
            self._progress(f"{self._remote.named}: copying {file.name}, {done / 1e6:.0f} of {file.size / 1e6:.0f} MB")


@dataclass(frozen=True)
class _FileState:
    """What is there of a file."""

    whole: bool
    damaged: bool
    part: int
