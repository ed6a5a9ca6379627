"""What runs on the remote machine, sent through the connection each time: facts, files, one supervised process.

Standard library only, nothing of EdgeSkip: there is nothing else on the other side yet. It reads one header (a JSON
line) and then the payload from stdin, and answers in JSON lines; the last is of kind `answer` or `error`. As long as
the other side lives, something comes on stdin every few seconds: if it ends or falls silent, this ends, and so does
whatever it started.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import io
import json
import os
import platform
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

SILENCE_S = 60.0  # without a byte from the other side, it counts as gone
LOCK_WAIT_S = 90.0  # longer than SILENCE_S: whoever was cut off has let go by then
TERM_S = 3.0  # between asking a process to end and making it
CHUNK = 1 << 18  # bytes
EXIT_ERROR = 3


class AgentError(Exception):
    """Something the user can fix: one line."""


heard = time.monotonic()
coming: io.BufferedReader


def emit(kind: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"kind": kind, **fields}) + "\n")
    sys.stdout.flush()


def receive_bytes(size: int) -> Iterator[bytes]:
    """Yield `size` bytes of stdin in pieces. EOFError if it ends before."""
    global heard
    left = size
    while left:
        piece = coming.read1(min(CHUNK, left))
        if not piece:
            raise EOFError
        heard = time.monotonic()
        left -= len(piece)
        yield piece


def watch_silence(gone: Callable[[], object]) -> None:
    """Call `gone` once the other side has been silent for too long; what was written stays."""
    while time.monotonic() - heard < SILENCE_S:
        time.sleep(SILENCE_S / 4)
    gone()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock; wait for another process, AgentError if that takes too long."""
    with path.open("a") as file:
        deadline, reported = time.monotonic() + LOCK_WAIT_S, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise AgentError(f"another benchmark is at work in {path.parent}: wait for it") from None
                if not reported:
                    emit("progress", message="waiting for another benchmark there")
                    reported = True
                time.sleep(0.2)
        yield


def facts(cache: str | None) -> dict[str, Any]:
    """Return where the cache is (made if need be) and what the machine has: bytes, None if unknown."""
    chosen = cache or os.environ.get("EDGESKIP_CACHE")
    base = Path(chosen or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "edgeskip")
    folder = base.expanduser().absolute() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass  # it can be written
    memory = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii", errors="replace").splitlines():
            name, _, value = line.partition(":")
            memory[name] = int(value.split()[0]) * 1024 if value.split()[:1] and value.split()[0].isdigit() else 0
    return {
        "cache": str(folder),
        "free_bytes": shutil.disk_usage(folder).free,
        "memory_bytes": memory.get("MemTotal"),
        "available_memory_bytes": memory.get("MemAvailable"),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "can_make_venv": all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")),
    }


def missing(modules: list[str]) -> dict[str, Any]:
    """Return which of these modules this Python cannot import; the current folder does not count."""
    return {"missing": [name for name in modules if importlib.util.find_spec(name) is None]}


def exists(path: str) -> dict[str, Any]:
    return {"exists": Path(path).exists()}


def unpack(folder: str, size: int, sha256: str) -> dict[str, Any]:
    """Turn the zip archive that follows into `folder`, whole or not at all."""
    target = Path(folder)
    data = b"".join(receive_bytes(size))
    if hashlib.sha256(data).hexdigest() != sha256:
        raise AgentError("EdgeSkip's own sources arrived damaged: try again")
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            archive.extractall(staging)
        staging.chmod(0o755)
        with contextlib.suppress(OSError):  # another benchmark was faster
            staging.rename(target)
        if not target.is_dir():
            raise AgentError(f"cannot make {target}")
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return {}


def file_states(folder: str, files: list[dict[str, Any]]) -> dict[str, Any]:
    """Return for each file whether it is whole, and the bytes of its partial copy; delete damaged ones."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    states = []
    with locked(target / ".lock"):
        for file in files:
            path, part = target / file["name"], target / (file["name"] + ".part")
            there = path.is_file()
            whole = there and path.stat().st_size == file["size"] and sha256_of(path) == file["sha256"]
            if there and not whole:
                path.unlink()
            if whole:
                part.unlink(missing_ok=True)
            length = part.stat().st_size if part.is_file() else 0
            states.append({"whole": whole, "damaged": there and not whole, "part": length})
    return {"states": states, "free_bytes": shutil.disk_usage(target).free}


def receive(folder: str, name: str, offset: int, size: int, sha256: str) -> dict[str, Any]:
    """Append the bytes that follow to the partial file, at `offset`; rename it if it is whole and right.

    `right` says whether it is; a wrong partial file is deleted.
    """
    target = Path(folder)
    path, part = target / name, target / (name + ".part")
    with locked(target / ".lock"):
        if (part.stat().st_size if part.exists() else 0) < offset:
            raise AgentError(f"{part} has become shorter: try again")
        with part.open("ab") as file:
            file.truncate(offset)
            for piece in receive_bytes(size - offset):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        right = sha256_of(part) == sha256
        if right:
            part.replace(path)
        else:
            part.unlink()
    return {"right": right}


def run(
    argv: list[str],
    cwd: str,
    seconds: float,
    path: str = "",
    stdin: str = "",
    lock: str | None = None,
) -> dict[str, Any]:
    """Run a process in its own group with our output; return its exit code. Python looks for modules in `path` first.

    It and whatever it started are gone when this returns or ends: by itself, after `seconds`, or because the other
    side is gone.
    """
    threading.Thread(target=listen, daemon=True).start()
    killed = oom_kills()
    with locked(Path(lock)) if lock else contextlib.nullcontext(), tempfile.TemporaryFile() as request:
        request.write(stdin.encode())
        request.seek(0)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if path:
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(argv, stdin=request, cwd=cwd, env=environment, start_new_session=True)
        try:
            threading.Thread(target=lambda: events.put(process.wait()), daemon=True).start()
            code = events.get(timeout=seconds)
        except queue.Empty:
            raise AgentError(f"it took longer than {seconds:.0f} s and was stopped") from None
        finally:
            end_group(process)
    if code is None:
        raise EOFError
    sys.stdout.write("\n")  # its last line may lack an end
    if code < 0:
        name = signal.Signals(-code).name if -code in {s.value for s in signal.Signals} else str(-code)
        reason = " (the system's out-of-memory killer ended a process meanwhile)" if oom_kills() > killed else ""
        raise AgentError(f"it was killed by signal {-code}, {name}{reason}")
    return {"code": code}


def oom_kills() -> int:
    """Return how many processes the out-of-memory killer has ended since the machine started; 0 if unknown."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(value) for key, _, value in (line.partition(" ") for line in lines) if key == "oom_kill")


events: queue.Queue[int | None] = queue.Queue()
"""The exit code of the process, or None if the other side is gone, whichever comes first."""


def listen() -> None:
    global heard
    while coming.read1(CHUNK):
        heard = time.monotonic()
    events.put(None)


def end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(TERM_S)
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(TERM_S)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stop(*_: Any) -> NoReturn:
    raise EOFError


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "facts": facts,
    "missing": missing,
    "exists": exists,
    "unpack": unpack,
    "file_states": file_states,
    "receive": receive,
    "run": run,
}


def main() -> int:
    global coming
    assert isinstance(sys.stdin.buffer, io.BufferedReader)
    coming = sys.stdin.buffer
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, stop)
    try:
        header = json.loads(coming.readline())
        command = header.pop("command")
        gone = (lambda: events.put(None)) if command == "run" else (lambda: os._exit(EXIT_ERROR))
        threading.Thread(target=watch_silence, args=(gone,), daemon=True).start()
        emit("answer", **COMMANDS[command](**header))
    except AgentError as error:
        emit("error", message=str(error))
    except EOFError:
        return EXIT_ERROR  # nobody listens
    except BrokenPipeError:
        os._exit(EXIT_ERROR)  # nor would they at the end
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        emit("error", message=f"no space left for {error.filename or 'it'}" if full else str(error))
    else:
        return 0
    return EXIT_ERROR


if __name__ == "__main__":
    code = main()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(code)  # threads that wait for the other side do not hold it up
