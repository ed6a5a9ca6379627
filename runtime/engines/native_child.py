"""Start child processes in which native code may crash."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence


def module_command(module: str, *arguments: str) -> list[str] | None:
    """Return the command that runs a module of ours; None in a frozen program, whose executable is the program."""
    if not sys.executable or getattr(sys, "frozen", False):
        return None
    # -P: nothing that lies in the current folder is imported.
    return [sys.executable, "-P", "-m", module, *arguments]


def run_child(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return its exit code and output.

    Args:
        command: its words.
        seconds: after which it is killed.

    Raises:
        OSError: if it cannot be started.
        subprocess.TimeoutExpired: if it took longer; has the output until then.
    """
    # ggml would start a debugger for a backtrace, which takes seconds.
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
        timeout=seconds,
    )
