"""The launcher for another machine over ssh: what the device is, artifacts copied there, rounds measured there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from edgeskip.bench.devices.ssh.connection import Connection, SshOptions
from edgeskip.bench.devices.ssh.destination import parse_destination
from edgeskip.bench.devices.ssh.environment import add_llama_cpp, prepare_environment
from edgeskip.bench.devices.ssh.machine import RemoteMachine, find_python
from edgeskip.bench.devices.ssh.transfer import copy_artifact, list_artifact_files
from edgeskip.bench.runner.launcher import StatusCallback
from edgeskip.bench.runner.request import RoundRequest
from edgeskip.bench.schema import Device, Roofline, RoundResult
from edgeskip.core.bounds import first_problem
from edgeskip.core.errors import EdgeSkipError

Kind = TypeVar("Kind", bound=BaseModel)
CHILD = "edgeskip.bench.runner.child"
DEVICE_S = 600.0  # to say what the machine is, its rooflines measured
_SHOWN = ("architecture", "system", "python", "memory_bytes", "available_memory_bytes", "free_bytes", "cache")


@dataclass(frozen=True)
class SshSettings:
    """How the other side is set up. `rooflines`: providers and numbers of threads whose roofline is wanted."""

    ssh: SshOptions = field(default_factory=SshOptions)
    python: str | None = None  # --remote-python: has what EdgeSkip needs; nothing is installed
    cache: str | None = None  # --remote-cache: a folder there
    rooflines: tuple[tuple[str, int], ...] = ()
    limit_s: float = 3600.0  # of one round


class SshLauncher:
    """A machine with Python, reached by the system's ssh."""

    def __init__(self, destination: str, settings: SshSettings, progress: StatusCallback) -> None:
        """Connect, bring what is needed and ask what the machine is; takes minutes the first time.

        Raises EdgeSkipError if that cannot be done: one line says what is missing.
        """
        self._settings = settings
        self._connection = Connection(parse_destination(destination), settings.ssh)
        try:
            progress(f"{destination}: connecting")
            python = settings.python or find_python(self._connection)
            self._remote = RemoteMachine(self._connection, python)
            self._facts = self._remote.ask("facts", progress, cache=settings.cache)
            given = settings.python is not None
            self._environment = prepare_environment(self._remote, self._facts, given=given, progress=progress)
            self._device = self._ask_device(destination, progress)
        except BaseException:
            self._connection.close()
            raise

    @property
    def device(self) -> Device:
        return self._device

    def prepare(self, path: Path, progress: StatusCallback) -> str:
        """Copy the artifact there once, checked; a GGUF file brings llama.cpp with it."""
        artifact = list_artifact_files(path)
        if artifact.opened:
            add_llama_cpp(self._remote, self._environment, progress)
        folder = f"{self._facts['cache']}/artifacts/{artifact.key}"
        copy_artifact(self._remote, artifact, folder, progress)
        return f"{folder}/{artifact.opened}" if artifact.opened else folder

    def run(self, request: RoundRequest, progress: StatusCallback) -> RoundResult:
        sample = self._child(RoundResult, [], request.model_dump_json(), self._settings.limit_s, progress)
        if (sample.cell, sample.round) != (request.cell, request.round):
            raise EdgeSkipError(f"{self._remote.named} answered for another cell than the one requested")
        return sample

    def rooflines_again(self, progress: StatusCallback) -> list[Roofline]:
        return self._ask_device(self._device.id, progress).rooflines if self._settings.rooflines else []

    def close(self) -> None:
        self._connection.close()

    def _ask_device(self, named: str, progress: StatusCallback) -> Device:
        options = ["--device"]
        if self._settings.rooflines:
            progress(f"{named}: measuring its memory and arithmetic")
            wanted = (f"{provider}:{threads}" for provider, threads in self._settings.rooflines)
            options += ["--roofline", ",".join(wanted)]
        device = self._child(Device, options, "", DEVICE_S, progress)
        remote = {name: self._facts[name] for name in _SHOWN if self._facts[name] is not None}
        return device.model_copy(update={"id": named, "type": "ssh", "facts": {**device.facts, "remote": remote}})

    def _child(
        self, kind: type[Kind], options: Sequence[str], stdin: str, limit_s: float, progress: StatusCallback
    ) -> Kind:
        """Return the last record that the worker writes. Raises EdgeSkipError if there is none."""
        code = self._environment.code
        last = ""

        def keep(line: str) -> None:
            nonlocal last
            if line.startswith("{"):
                last = line

        answer = self._remote.run(
            [self._environment.python, "-m", CHILD, *options],
            progress,
            on_line=keep,
            limit_s=limit_s,
            cwd=code,
            path=code,
            stdin=stdin,
        )
        if answer["code"] or not last:
            said = answer["said"] or "it says nothing"
            raise EdgeSkipError(f"{self._remote.named}: measuring ended with code {answer['code']}: {said}")
        try:
            return kind.model_validate_json(last)
        except ValidationError as error:
            raise EdgeSkipError(
                f"{self._remote.named} answered with no {kind.__name__} ({first_problem(error)})"
            ) from None
