"""The program inside the sandbox: limits itself, runs what it is given, reports how it ended.

Started by `sandbox`, never imported; the standard library only, since it runs without site-packages.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events of what no solution needs: refused with a reason that can be read, and the only wall where the kernel
# has none. RLIMIT_NPROC does not bind root, so processes are refused here too.
_REFUSED = (
    "os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.startfile", "os.kill", "subprocess.", "pty.",
    "socket.", "ctypes.", "os.chmod", "os.chown", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rename",
    "os.rmdir", "os.truncate", "os.utime", "os.setxattr", "os.removexattr", "shutil.", "tempfile.", "sqlite3.",
    "resource.setrlimit", "resource.prlimit", "sys.addaudithook", "signal.pthread_kill",
)  # fmt: skip
# Ways around those events: processes, sockets and C calls by their inner names, files written by a C library.
_REFUSED_MODULES = frozenset(("_posixsubprocess", "_ctypes", "_socket", "readline", "_sqlite3", "_dbm", "_gdbm"))


def _limit(kind: int, soft: int, hard: int | None = None) -> None:
    with suppress(ValueError, OSError):  # macOS knows some limits and does not set them
        resource.setrlimit(kind, (soft, soft if hard is None else hard))


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        flags = arguments[2]
        refused = isinstance(flags, int) and bool(flags & _WRITES)
    elif event == "import":
        # An extension module is announced with its file, under whatever name it is loaded.
        refused = arguments[0] in _REFUSED_MODULES or _file_module(arguments[1]) in _REFUSED_MODULES
    else:
        refused = event.startswith(_REFUSED)
    if refused:
        raise PermissionError(f"{event} is not allowed here")


def _file_module(path: object) -> str:
    """Return the module an extension file holds: `_socket` of `/…/_socket.cpython-311-….so`."""
    return os.path.basename(path).partition(".")[0] if isinstance(path, str) else ""  # noqa: PTH119


def _confine(pyseccomp: str | None) -> list[str]:
    path = Path(__file__).with_name("confinement.py")
    before = set(sys.modules)
    spec = importlib.util.spec_from_file_location("confinement", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    layers: list[str] = module.confine(pyseccomp)
    for name in set(sys.modules) - before:  # ctypes among them: the program is to ask for it, and be refused
        del sys.modules[name]
    return layers


def _main() -> None:
    job = json.loads(sys.stdin.buffer.read())
    answer = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    seconds = max(1, round(job["seconds"]))
    layers = _confine(job["pyseccomp"])
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
    verdict = {"proof": job["proof"], "passed": not reason, "reason": reason, "layers": layers}
    os.write(answer, json.dumps(verdict).encode())
    os._exit(0)


if __name__ == "__main__":
    _main()
