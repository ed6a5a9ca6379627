"""One process at a time makes an output: a lock file beside it, held while the work lasts.

The system frees the lock when its process ends, however it ends; the file goes with the work. Where a file system knows
no locks there is none, and what is made last is refused by its existence alone.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from edgeskip.core.errors import EdgeSkipError

SUFFIX = ".edgeskip-lock"

_held: dict[Path, tuple[int, int]] = {}  # lock file → its thread, and how often that one has claimed it
_guard = threading.Lock()


class ClaimedError(EdgeSkipError):
    """Another process, or another thread of this one, is making the same output."""


def lock_path(target: Path) -> Path:
    """Return the lock file of `target`, beside it; a link has that of what it points to."""
    real = target.resolve()
    return real.with_name(f".{real.name}{SUFFIX}")


@contextmanager
def claim(*targets: Path) -> Iterator[None]:
    """Hold `targets` as outputs of this process while the block runs; a thread that holds one may claim it again.

    Folders on the way are made, and removed afterwards if they are still empty. Raises EdgeSkipError if another process
    holds one of them.
    """
    with ExitStack() as stack:
        for target in targets:
            stack.enter_context(_claim(target))
        yield


@contextmanager
def _claim(target: Path) -> Iterator[None]:
    path, thread = lock_path(target), threading.get_ident()
    with _guard:
        owner, depth = _held.get(path, (thread, 0))
        if owner != thread:
            raise ClaimedError(_told(target, "another thread of this process"))
        _held[path] = (thread, depth + 1)
    made: list[Path] = []
    handle: int | None = None
    try:
        if not depth:
            made = [folder for folder in path.parents if not folder.exists()]  # the deepest first
            handle = _lock(path, target)
        yield
    finally:
        with _guard:
            if depth:
                _held[path] = (thread, depth)
            else:
                del _held[path]
        if handle is not None:
            _unlock(path, handle)
        with suppress(OSError):  # not empty: what was made is there
            for folder in made:
                folder.rmdir()


_command = ExitStack()  # what the command that runs has claimed


def hold(*targets: Path) -> None:
    """Claim `targets` until the command that runs has ended (`let_go`); of several processes of one job the first does.

    EdgeSkipError as `claim`.
    """
    if os.environ.get("RANK", "0") == "0":
        _command.enter_context(claim(*targets))


def let_go() -> None:
    """Free what `hold` claimed."""
    _command.close()


def is_claimed(target: Path) -> bool:
    """Return whether a process, this one included, is making `target` now."""
    path = lock_path(target)
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _try_lock(handle)
    except OSError:
        return False
    finally:
        os.close(handle)


def _told(target: Path, who: str) -> str:
    return f"{who} is writing to {target}: wait until it is done, or choose another output"


def _lock(path: Path, target: Path) -> int | None:
    """Return the open lock file; None if there are no locks. Raises EdgeSkipError if somebody else holds it."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:  # no such file can be: whoever writes the output meets the same error, and can explain it
            return None
        except BaseException:  # Ctrl-C, before the name `handle` was given
            _remove_free(path)
            raise
        try:
            if not (_try_lock(handle) or _try_lock_again(handle)):
                owner = os.pread(handle, 20, 0).decode("ascii", "replace").strip() if hasattr(os, "pread") else ""
                number = f" (pid {owner})" if owner.isdigit() else ""
                raise ClaimedError(_told(target, f"another edgeskip process{number}"))
            # The one before removes the file before it lets go: then this is a lock on nothing.
            if _same_file(path, handle):
                os.ftruncate(handle, 0)
                os.write(handle, f"{os.getpid()}\n".encode())
                return handle
        except ClaimedError:
            os.close(handle)
            raise
        except OSError:  # no locks here, or no room for the number
            _unlock(path, handle)
            return None
        except BaseException:  # Ctrl-C
            _unlock(path, handle)
            raise
        os.close(handle)


def _remove_free(path: Path) -> None:
    """Remove the lock file that nobody holds."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDWR)
        if _try_lock(handle) and _same_file(path, handle):
            _unlock(path, handle)
        else:
            os.close(handle)


def _try_lock_again(handle: int) -> bool:
    """Return whether it was only looked at (`is_claimed`), which takes no time."""
    time.sleep(0.05)
    return _try_lock(handle)


def _same_file(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        os.lseek(handle, 1 << 30, os.SEEK_SET)  # beyond the text: a locked byte cannot be read
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
        return True

    def _unlock(path: Path, handle: int) -> None:
        os.close(handle)
        with suppress(OSError):  # an open file cannot be removed: somebody has it by now
            path.unlink()

else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(path: Path, handle: int) -> None:
        with suppress(OSError):
            path.unlink()
        os.close(handle)
