"""A script's work in a process of its own: one JSON request on stdin, one JSON reply on stdout. Measures nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeskip.core.child_exit import how_it_ended
from edgeskip.core.errors import EdgeSkipError

WORD = "worker"  # the script's argument that makes it answer instead
TAIL = 12  # lines of a dead worker's stderr that are shown


def ask_afresh(
    script: Path,
    request: dict[str, Any],
    *,
    threads: int,
    python: Path | None = None,
    watch: Callable[[subprocess.Popen[bytes]], None] = lambda _: None,
) -> dict[str, Any]:
    """What `SCRIPT worker` answers to `request`, run by `python` (default: this one).

    `watch` is called with the process once it has its request; whatever it does, the reply is waited for afterwards.
    EdgeSkipError with the worker's own words where it fails.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONUTF8": "1",
    }
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answered, tempfile.TemporaryFile() as errors:
        asked.write(json.dumps(request).encode())
        asked.seek(0)
        command = [str(python or sys.executable), str(script), WORD]
        with subprocess.Popen(command, stdin=asked, stdout=answered, stderr=errors, env=environment) as process:
            try:
                watch(process)
                process.wait()
            except BaseException:
                process.kill()
                raise
        answered.seek(0)
        errors.seek(0)
        text = answered.read().decode()
        if not text:
            said = "\n".join(errors.read().decode(errors="replace").splitlines()[-TAIL:])
            raise EdgeSkipError(f"{script.name} worker {how_it_ended(process.returncode)} and gave no reply:\n{said}")
    reply: dict[str, Any] = json.loads(text)
    if "error" in reply:
        raise EdgeSkipError(f"{script.name} worker: {reply['error']}")
    return reply


def answer(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The worker's side: reads the request, prints what `work` makes of it; what libraries print goes to stderr."""
    request = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        reply = work(request)
    except EdgeSkipError as error:
        reply = {"error": str(error)}
    with out:
        json.dump(reply, out)
