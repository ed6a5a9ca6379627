"""Run the programs that the Arm root is made with: a time limit, a log, one line if they fail."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from edgeskip.core.errors import EdgeSkipError


class UnavailableError(EdgeSkipError):
    """A program is missing, or what it should fetch cannot be fetched; what is there already is fine."""


def required(program: str, package: str) -> str:
    """Return the program's path; UnavailableError naming the Debian package that has it."""
    # Debian keeps debootstrap where the PATH of other users than root does not lead.
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise UnavailableError(f"{program} is not here; on Debian: apt-get install {package}")
    return found


def output_of(command: Sequence[str | Path], *, limit_s: float, log: Path | None = None, fetches: bool = False) -> str:
    """Return what a command prints, also kept in `log`; EdgeSkipError with its error line if it fails or hangs, an
    UnavailableError if it `fetches`."""
    kind = UnavailableError if fetches else EdgeSkipError
    name = Path(command[0]).name
    try:
        done = run(command, limit_s=limit_s)
    except subprocess.TimeoutExpired:
        kept = "is the network there? What was fetched is kept, run this again" if fetches else "run this again"
        raise kind(f"{name} did not end within {limit_s:.0f} s: {kept}") from None
    said = f"{done.stdout}\n{done.stderr}"
    if log is not None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(map(str, command))}\n{said}\n")
    if done.returncode:
        where = f" (see {log})" if log is not None else ""
        raise kind(f"{name} failed: {error_line(said)}{where}")
    return done.stdout


def run(
    command: Sequence[str | Path], *, limit_s: float, stdin: str = "", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; after `limit_s` seconds TimeoutExpired, with nothing it started left behind."""
    with subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,  # downloaders are children of their own
    ) as process:
        try:
            out, err = process.communicate(stdin, timeout=limit_s)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def error_line(output: str) -> str:
    """Return the line of a program's output that says why it failed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "ERROR", "error", "dpkg-deb: error"))]
    said = (errors or lines or ["it printed nothing"])[-1]
    return said.removeprefix("E:").strip()[:300]
