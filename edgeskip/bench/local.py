"""The launcher of this machine: every round is a process of this, or another, Python."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from edgeskip.bench.launcher import Progress
from edgeskip.bench.quality import QualityRequest
from edgeskip.bench.record import Device, Quality, Sample
from edgeskip.bench.request import Request
from edgeskip.errors import EdgeSkipError

_CHILD = "edgeskip.bench.child"
DEVICE_TIMEOUT_S = 120.0


class LocalLauncher:
    """`pythons`: by provider, an interpreter whose onnxruntime is another build; all others use this one.

    `silence_s`: how long a process may say nothing before it counts as hung.
    """

    def __init__(
        self,
        cells: Sequence[tuple[str, int]],
        *,
        pythons: Mapping[str, Path] | None = None,
        silence_s: float = 1800.0,
    ) -> None:
        """`cells`: the providers and numbers of threads whose roofline is wanted."""
        self._pythons = dict(pythons or {})
        self._silence_s = silence_s
        by_python: dict[str, list[str]] = {sys.executable: []}
        for provider, threads in dict.fromkeys(cells):
            by_python.setdefault(self._python(provider), []).append(f"{provider}:{threads}")
        devices = [
            Device.model_validate(
                call([python, "-m", _CHILD, "--device", "--roofline", ",".join(wanted)], None, DEVICE_TIMEOUT_S)
            )
            for python, wanted in by_python.items()
        ]
        rooflines = [roofline for device in devices for roofline in device.rooflines]
        versions = dict(devices[0].versions)
        for provider, python in self._pythons.items():
            other = devices[list(by_python).index(str(python))].versions if str(python) in by_python else {}
            versions |= {f"{name} ({provider})": version for name, version in other.items() if "onnxruntime" in name}
        self._device = devices[0].model_copy(update={"rooflines": rooflines, "versions": versions})

    @property
    def device(self) -> Device:
        return self._device

    def prepare(self, path: Path, progress: Progress) -> str:
        return str(path.resolve())

    def run(self, request: Request, progress: Progress) -> Sample:
        python = self._python(request.cell.provider)
        return Sample.model_validate(call([python, "-m", _CHILD], request, self._silence_s, progress))

    def quality(self, request: QualityRequest, progress: Progress) -> Quality:
        """What an artifact loses, measured in a process of its own."""
        command = [sys.executable, "-m", _CHILD, "--quality"]
        return Quality.model_validate(call(command, request, self._silence_s, progress))

    def close(self) -> None:
        pass

    def _python(self, provider: str) -> str:
        return str(self._pythons.get(provider, sys.executable))


def call(
    command: Sequence[str], request: BaseModel | None, silence_s: float, progress: Progress | None = None
) -> dict[str, Any]:
    """Runs `child`, `request` on its stdin; its last line. EdgeSkipError with its message where it is an error, where
    it dies, or says nothing for `silence_s`. On every way out the process is gone, with all it started.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
        start_new_session=True,  # Ctrl-C comes to us alone
    )
    lines: queue.Queue[str | None] = queue.Queue()
    complaints: list[str] = []
    readers = [
        threading.Thread(target=_read, args=(process.stdout, lines.put), daemon=True),
        threading.Thread(target=_read, args=(process.stderr, complaints.append), daemon=True),
    ]
    try:
        for reader in readers:
            reader.start()
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has died: what it said is read below
            process.stdin.write(request.model_dump_json() if request is not None else "")
            process.stdin.close()
        last = None
        while (line := _next(lines, silence_s)) is not None:
            last = _parsed(line) or last
            if progress is not None and last is not None and last.get("kind") == "progress":
                progress(str(last.get("message", "")))
        process.wait(timeout=30)
    except (queue.Empty, subprocess.TimeoutExpired):
        raise EdgeSkipError(
            f"the measuring process said nothing for {silence_s:.0f} s and was ended: is the machine out of memory?"
        ) from None
    finally:
        _end(process)
    if last is not None and last.get("kind") == "error":
        raise EdgeSkipError(str(last["message"]))
    if last is None or last.get("kind") == "progress" or process.returncode:
        for reader in readers:
            reader.join(timeout=5)
        raise EdgeSkipError(_died(process.returncode, complaints))
    return last


def _read(stream: Any, tell: Any) -> None:
    for line in stream:
        tell(line)
    tell(None)


def _next(lines: queue.Queue[str | None], silence_s: float) -> str | None:
    """The next line, None at the end; queue.Empty after `silence_s`. Waits in pieces, so that Ctrl-C is heard."""
    end = time.monotonic() + silence_s
    while True:
        try:
            return lines.get(timeout=0.2)
        except queue.Empty:
            if time.monotonic() > end:
                raise


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _end(process: subprocess.Popen[str]) -> None:
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):  # the usual end: it has gone, and started nothing
            os.killpg(process.pid, signal.SIGKILL)
    else:  # Windows
        process.kill()
    process.wait()


def _died(code: int | None, complaints: Sequence[str | None]) -> str:
    words = [line.strip() for line in complaints if line and line.strip()]
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in {s.value for s in signal.Signals} else str(-code)
        why = f"was killed by {name}" + (", out of memory?" if -code == signal.SIGKILL else "")
    else:
        why = f"ended with code {code}"
    return f"the measuring process {why}" + (f": {words[-1][:300]}" if words else "") + ": see  edgeskip doctor"
