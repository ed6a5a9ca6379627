"""Who takes what browsers send: the server checks that a record is well formed, a desk decides what it means."""

from __future__ import annotations

from typing import Protocol

from edgeskip.bench.runner.request import Request
from edgeskip.bench.schema import Device, Failure, Sample


class RefusedError(Exception):
    """A browser sent what nobody asked it for: one line."""


class Desk(Protocol):
    """Called by the server's one thread, never by two at once. Every call is quick; RefusedError goes back as 400."""

    def register(self, device: Device) -> str:
        """A browser says what it is, perhaps once more with what it gives; the id it has from now on."""

    def work(self, device: str) -> list[Request]:
        """What is left to do for it. RefusedError for an id nobody was given."""

    def progress(self, device: str, message: str) -> None:
        """What it is doing now; comes every few seconds."""

    def sample(self, device: str, sample: Sample) -> None:
        """A round has ended. RefusedError where nobody asked for it. Returns once the record is safe."""

    def failure(self, device: str, failure: Failure) -> None:
        """A round will not end; otherwise as `sample`."""
