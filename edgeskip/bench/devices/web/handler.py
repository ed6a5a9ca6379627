"""Who takes what browsers send: the server checks that a record is well formed, a desk decides what it means."""

from __future__ import annotations

from typing import Protocol

from edgeskip.bench.runner.request import RoundRequest
from edgeskip.bench.schema import Device, RoundFailure, RoundResult


class RejectedRecordError(Exception):
    """A browser sent what nobody asked it for: one line."""


class ResultHandler(Protocol):
    """Handler for what browsers post, called by the server's one thread; RejectedRecordError becomes an HTTP 400."""

    def register(self, device: Device) -> str:
        """A browser says what it is, perhaps once more with what it gives; the id it has from now on."""

    def work(self, device: str) -> list[RoundRequest]:
        """What is left to do for it. RejectedRecordError for an id nobody was given."""

    def progress(self, device: str, message: str) -> None:
        """What it is doing now; comes every few seconds."""

    def sample(self, device: str, sample: RoundResult) -> None:
        """A round has ended. RejectedRecordError where nobody asked for it. Returns once the record is safe."""

    def failure(self, device: str, failure: RoundFailure) -> None:
        """A round will not end; otherwise as `sample`."""
