"""Runs `edgeskip.bench.runner.child` in its own process, which is always terminated: on success, error or interrupt."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pydantic import BaseModel

from edgeskip.bench.runner.launcher import StatusCallback
from edgeskip.core.child_exit import MemoryWatch, how_it_ended
from edgeskip.core.errors import EdgeSkipError

CHILD = "edgeskip.bench.runner.child"


def run_worker(
    command: Sequence[str], request: BaseModel | None, silence_s: float, progress: StatusCallback | None = None
) -> dict[str, Any]:
    """Run a worker with `request` on its stdin and return its last line.

    The process is always terminated, with all it started: on success, error or interrupt.

    Raises:
        EdgeSkipError: With the worker's message if it reports an error, or if it dies or is silent for `silence_s`.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    watch = MemoryWatch()
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
    errors: list[str] = []
    readers = [
        threading.Thread(target=_read, args=(process.stdout, lines.put), daemon=True),
        threading.Thread(target=_read, args=(process.stderr, errors.append), daemon=True),
    ]
    try:
        for reader in readers:
            reader.start()
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has died: its output is read below
            process.stdin.write(request.model_dump_json() if request is not None else "")
            process.stdin.close()
        last = None
        while (line := _next_line(lines, silence_s)) is not None:
            found = _parsed(line)
            last = found or last
            if progress is not None and found is not None and found.get("kind") == "progress":
                progress(str(found.get("message", "")))
        process.wait(timeout=30)
    except (queue.Empty, subprocess.TimeoutExpired):
        why = f" ({evidence})" if (evidence := watch.evidence()) else ""
        raise EdgeSkipError(
            f"the worker was silent for {silence_s:.0f} s and was ended{why}; see  edgeskip doctor"
        ) from None
    finally:
        _terminate(process)
    if last is not None and last.get("kind") == "error":
        raise EdgeSkipError(str(last["message"]))
    if last is None or last.get("kind") == "progress" or process.returncode:
        for reader in readers:
            reader.join(timeout=5)
        raise EdgeSkipError(_exit_reason(process.returncode, errors, watch))
    return last


def _read(stream: Any, receive: Any) -> None:
    for line in stream:
        receive(line)
    receive(None)


def _next_line(lines: queue.Queue[str | None], silence_s: float) -> str | None:
    """Return the next line, None at the end; queue.Empty after `silence_s`. Wait in pieces, so that Ctrl-C works."""
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


def _terminate(process: subprocess.Popen[str]) -> None:
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):  # usually it has ended, and started nothing
            os.killpg(process.pid, signal.SIGKILL)
    else:  # Windows
        process.kill()
    process.wait()


def _exit_reason(code: int | None, errors: Sequence[str | None], watch: MemoryWatch) -> str:
    words = [line.strip() for line in errors if line and line.strip()]
    said = f": {words[-1][:300]}" if words else ""
    return f"the worker {how_it_ended(code, watch)}{said}; see  edgeskip doctor"
