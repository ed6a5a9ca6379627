"""Runs code that a model wrote, in a process of its own under limits (`sandbox_child`): what goes wrong stays there.

This keeps a careless program from doing harm. It is no wall against one written to break out: run HumanEval of models
that you do not trust in a container.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgeskip.errors import EdgeSkipError

CHILD = Path(__file__).with_name("sandbox_child.py")
MEMORY_BYTES = 1 << 30  # of address space
SECONDS = 10.0  # of processor time
WALL = 3  # as many times that on the clock, for a busy machine


@dataclass(frozen=True)
class Verdict:
    """Whether the program ran to its end; `reason` is the exception that ended it, `timeout`, or `killed`."""

    passed: bool
    reason: str = ""


def check_sandbox() -> None:
    """EdgeSkipError where this platform has no limits to set: asked before long work."""
    try:
        import resource  # noqa: F401
    except ModuleNotFoundError:
        raise EdgeSkipError(
            "humaneval runs what the model wrote, and this platform has no limits for it: run it on Linux or macOS"
        ) from None


def run_sandboxed(program: str, *, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> Verdict:
    """Runs the Python `program`: `seconds` of processor time, so much memory, no writes, no processes, no network.

    Its output goes nowhere; the folder it starts in is empty and gone afterwards.
    """
    check_sandbox()
    proof = secrets.token_hex(16)  # a program that prints or exits by itself does not know it
    job = json.dumps({"program": program, "proof": proof, "seconds": seconds, "memory_bytes": memory_bytes})
    with tempfile.TemporaryDirectory(prefix="edgeskip-sandbox-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,  # a process group that can be killed whole
        )
        try:
            answer, _ = process.communicate(job.encode(), timeout=WALL * seconds)
        except subprocess.TimeoutExpired:
            _kill(process)
            return Verdict(False, "timeout")
        except BaseException:  # Ctrl-C does not reach another session
            _kill(process)
            raise
    if process.returncode == -signal.SIGXCPU:
        return Verdict(False, "timeout")
    try:
        told = json.loads(answer)
        if told["proof"] != proof:
            raise ValueError("not ours")
        return Verdict(bool(told["passed"]), str(told["reason"]))
    except (ValueError, TypeError, KeyError):
        return Verdict(False, "killed")


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
    process.communicate()
