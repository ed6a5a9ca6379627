"""Runs code that a model wrote, in a separate process (`sandbox_child`) that the kernel confines as far as it can.

Layers, each used if it is there: bubblewrap (own namespaces: no network, no other processes, a file system that
cannot be written), Landlock (no writes, no programs, no TCP), seccomp through libseccomp (no processes, no sockets),
resource limits, and audit hooks in the interpreter. `layers_here` reports which. With bubblewrap or Landlock nothing of
the machine is changed by the program. With neither, a careless program is stopped and one written to break out is not:
it could then create empty files or start programs. What no layer does: keep the program from *reading* files, or one
written to deceive from claiming that it passed, for verdict and program share an interpreter.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from edgeskip.core.errors import EdgeSkipError

CHILD = Path(__file__).with_name("sandbox_child.py")
MEMORY_BYTES = 1 << 30  # of address space
SECONDS = 10.0  # of processor time
WALL = 3  # as many times that on the clock, for a busy machine
ANSWER_BYTES = 1 << 14  # of the child's verdict; whoever writes more is not the child's own code
# bubblewrap: the machine's files without a way to change them, new namespaces, no capabilities, gone with its parent.
_BUBBLEWRAP = (
    "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-all", "--cap-drop", "ALL",
    "--die-with-parent", "--new-session",
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """Whether the program ran to its end; `reason` is the exception that ended it, `timeout`, or `killed`."""

    passed: bool
    reason: str = ""


def check_sandbox() -> None:
    """Raise EdgeSkipError if this platform has no limits to set: asked before long work."""
    try:
        import resource  # noqa: F401
    except ModuleNotFoundError:
        raise EdgeSkipError(
            "humaneval runs what the model wrote, and this platform has no limits for it: run it on Linux or macOS"
        ) from None


@cache
def layers_here() -> tuple[str, ...]:
    """Return what confines programs on this machine, e.g. ("bubblewrap", "Landlock", "seccomp", "resource limits")."""
    check_sandbox()
    verdict, layers = _run("", SECONDS, MEMORY_BYTES)
    if not verdict.passed:
        raise EdgeSkipError(f"the sandbox for the model's code does not start here ({verdict.reason}): report this")
    return (*(("bubblewrap",) if _bubblewrap() else ()), *layers, "resource limits")


def run_sandboxed(program: str, *, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> Verdict:
    """Run a Python program where it cannot do harm; see the module for what stops it from what.

    Its output goes nowhere; the folder it starts in is empty and gone afterwards.

    Args:
        program: Source text.
        seconds: Of processor time; three times as long on the clock.
        memory_bytes: Of address space.
    """
    check_sandbox()
    return _run(program, seconds, memory_bytes)[0]


def _run(program: str, seconds: float, memory_bytes: int) -> tuple[Verdict, tuple[str, ...]]:
    """Return the verdict, and the layers that the child reports; () if it did not get that far."""
    proof = secrets.token_hex(16)  # a program that prints or exits by itself does not know it
    job: dict[str, object] = {"program": program, "proof": proof, "seconds": seconds, "memory_bytes": memory_bytes}
    job["pyseccomp"] = _pyseccomp()
    with tempfile.TemporaryDirectory(prefix="edgeskip-sandbox-") as folder, tempfile.TemporaryFile() as question:
        question.write(json.dumps(job).encode())
        question.seek(0)
        process = subprocess.Popen(
            [*_prefix(folder), sys.executable, "-I", "-S", str(CHILD)],
            stdin=question,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,  # a process group that can be killed whole
        )
        try:
            answer = _read(process, time.monotonic() + WALL * seconds)
        finally:  # on every way out, Ctrl-C included, which does not reach another session
            _kill(process)
    if answer is None or -process.returncode == signal.SIGXCPU or process.returncode == 128 + signal.SIGXCPU:
        return Verdict(False, "timeout"), ()
    try:
        told = json.loads(answer)
        if told["proof"] != proof:
            raise ValueError("not ours")
        return Verdict(bool(told["passed"]), str(told["reason"])), tuple(map(str, told["layers"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return Verdict(False, "killed"), ()


def _read(process: subprocess.Popen[bytes], deadline: float) -> bytes | None:
    """Return the child's answer, at most ANSWER_BYTES of it however much it writes.

    None once the deadline has passed.
    """
    assert process.stdout is not None
    descriptor, answer = process.stdout.fileno(), b""
    while len(answer) <= ANSWER_BYTES:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        chunk = os.read(descriptor, ANSWER_BYTES)
        if not chunk:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
                return answer
            return None
        answer += chunk
    return answer


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _pyseccomp() -> str | None:
    found = find_spec("pyseccomp")
    return found.origin if found else None


def _prefix(folder: str) -> list[str]:
    program = _bubblewrap()
    return [] if program is None else [program, *_BUBBLEWRAP, "--chdir", folder, "--"]


@cache
def _bubblewrap() -> str | None:
    """Return its path where it is installed and allowed to make namespaces (inside containers it often is not)."""
    program = shutil.which("bwrap")
    if program is None:
        return None
    trial = [program, *_BUBBLEWRAP, "--", sys.executable, "-I", "-S", "-c", ""]
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(trial, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, env={})
        return program if done.returncode == 0 else None
    return None
