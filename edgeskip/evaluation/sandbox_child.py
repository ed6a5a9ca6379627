"""The program inside the sandbox: limits itself, runs what it is given, tells how it ended. Started by `sandbox`, never
imported; the standard library only, since it runs without site-packages.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from contextlib import suppress
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events of what no solution needs. RLIMIT_NPROC does not bind root, so processes are refused here too.
_REFUSED = (
    "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.startfile", "os.kill", "subprocess.", "pty.",
    "socket.", "ctypes.", "os.chmod", "os.chown", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rename",
    "os.rmdir", "os.truncate", "os.utime", "os.setxattr", "os.removexattr", "shutil.", "tempfile.",
    "resource.setrlimit", "resource.prlimit", "sys.addaudithook",
)  # fmt: skip
_REFUSED_MODULES = frozenset(("_posixsubprocess", "_ctypes", "_socket"))  # ways around those events


def _limit(kind: int, soft: int, hard: int | None = None) -> None:
    with suppress(ValueError, OSError):  # macOS knows some limits and does not set them
        resource.setrlimit(kind, (soft, soft if hard is None else hard))


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        flags = arguments[2]
        refused = isinstance(flags, int) and bool(flags & _WRITES)
    elif event == "import":
        refused = arguments[0] in _REFUSED_MODULES
    else:
        refused = event.startswith(_REFUSED)
    if refused:
        raise PermissionError(f"{event} is not allowed here")


def _main() -> None:
    job = json.loads(sys.stdin.buffer.read())
    answer = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    seconds = max(1, round(job["seconds"]))
    _limit(resource.RLIMIT_CPU, seconds, seconds + 1)
    _limit(resource.RLIMIT_AS, job["memory_bytes"])
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, 64)
    _limit(resource.RLIMIT_NPROC, 0)
    sys.addaudithook(_refuse)
    reason = ""
    try:
        exec(compile(job["program"], "<solution>", "exec"), {"__name__": "__solution__"})
    except BaseException as error:
        reason = type(error).__name__
    os.write(answer, json.dumps({"proof": job["proof"], "passed": not reason, "reason": reason}).encode())
    os._exit(0)


if __name__ == "__main__":
    _main()
