"""The interface of whatever measures one round of one cell: a process here, one over ssh, a phone, a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from edgeskip.bench.runner.request import RoundRequest
from edgeskip.bench.schema import Device, Roofline, RoundResult

StatusCallback = Callable[[str], None]
"""Told, in a few words, what is going on now."""


class Launcher(Protocol):
    """One device. Every call ends: there is a time limit on whatever it waits for."""

    @property
    def device(self) -> Device:
        """What it is; known once the launcher is made."""

    def prepare(self, path: Path, progress: StatusCallback) -> str:
        """Copy the artifact at `path` to the device, once; return the path to put in requests there.

        Raises EdgeSkipError if it has no room, cannot be reached, or the copy fails its checksum.
        """

    def run(self, request: RoundRequest, progress: StatusCallback) -> RoundResult:
        """Measure one round in a fresh process there. Raises EdgeSkipError if it fails; nothing is left running."""

    def rooflines_again(self, progress: StatusCallback) -> list[Roofline]:
        """Measure the device's rooflines once more; [] if it has none. Raises EdgeSkipError if that fails."""

    def close(self) -> None:
        """End everything it started; what was copied stays, for the next time."""
