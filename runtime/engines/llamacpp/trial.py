"""Open a GGUF of unknown origin in a child process first: a failed assertion in llama.cpp ends its process.

A file that opened well is remembered under its own identity and the library's, so it is tried once. `trial_child` is
the child.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgeskip.core.child_exit import MemoryWatch, how_it_ended
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.paths import cache_folder
from edgeskip.core.requirements import installed_version
from edgeskip.runtime.engines.llamacpp.build import PACKAGE
from edgeskip.runtime.engines.llamacpp.self_test import library_files
from edgeskip.runtime.engines.native_child import module_command, run_child

CHILD = "edgeskip.runtime.engines.llamacpp.trial_child"
BEGUN = "begun"  # the child's first line: what happens from here on is the file's doing
REFUSED = "refused: "  # begins the line with the child's EdgeSkipError
_VERSION = 1  # of what is tried: a higher number tries every file again


@dataclass(frozen=True)
class TrialLimits:
    """What the child may take; generous, so that a slow disk or a busy machine refuses no file."""

    seconds: float = 120.0
    bytes_per_second: float = 10e6  # added to `seconds`
    processor_seconds: float = 60.0
    processor_seconds_per_gigabyte: float = 120.0
    memory_bytes: int = 8 << 30  # of address space, plus four times the file
    remembered: int = 1000  # files


LIMITS = TrialLimits()


def try_opening(files: Sequence[Path], provider: str) -> None:
    """Load `files[0]` in a child process, tokenize a text and run a few tokens, unless that went well before.

    Args:
        files: the model's file; the other parts too if it is split.
        provider: where it is to run, as in `LlamaModel`.

    Raises:
        EdgeSkipError: if the child was ended by a signal, did not end in time, or could not load the file: then with
            the child's own words.
    """
    size = sum(file.stat().st_size for file in files)
    command = module_command(CHILD, provider, str(size), str(files[0].absolute()))
    if command is None:
        return
    mark = _mark(files, provider)
    if mark is not None and mark.exists():
        return
    if _run(command, files[0], LIMITS.seconds + size / LIMITS.bytes_per_second) and mark is not None:
        _remember(mark, files[0])


def _run(command: Sequence[str], path: Path, seconds: float) -> bool:
    """Return whether the child tried the file and survived."""
    watch = MemoryWatch()
    try:
        result = run_child(command, seconds)
    except subprocess.TimeoutExpired as expired:
        if BEGUN not in str(expired.stdout):
            return False
        raise EdgeSkipError(
            f"{path}: llama.cpp does not open it within {seconds:.0f} s: fetch or convert the model again"
        ) from None
    except OSError:  # no more processes: nothing can be said about the file
        return False
    if BEGUN not in result.stdout:
        return False
    if result.returncode:
        raise EdgeSkipError(
            f"{path}: llama.cpp, which opened it in a separate process, {how_it_ended(result.returncode, watch)}"
            f"{_reason(result.stderr)}: the file is damaged or not for this llama-cpp-python; fetch or convert the "
            "model again, or update llama-cpp-python"
        )
    refusal = next((line for line in result.stdout.splitlines() if line.startswith(REFUSED)), None)
    if refusal is not None:
        raise EdgeSkipError(refusal.removeprefix(REFUSED))
    return True


def _reason(stderr: str) -> str:
    """Return what ggml or the C++ runtime printed last, without the path of its source folder."""
    said = re.findall(r"(?:GGML_ASSERT\(.*\) failed|what\(\):.*|\.\w+:\d+: .*)", stderr)
    return f" ({' '.join(said[0].split())[:160]})" if said else ""


def _mark(files: Sequence[Path], provider: str) -> Path | None:
    """Return the file that marks these files as tried; None if they cannot be identified later."""
    try:
        parts = [f"{_VERSION} {provider} {sys.version}", *_library_identity()]
        for file in files:
            about = file.resolve().stat()
            identity = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
            parts.append(f"{file.resolve()} {identity}")
    except OSError:
        return None
    return cache_folder() / "opened-gguf" / hashlib.sha256("\n".join(parts).encode("utf-8", "replace")).hexdigest()


def _library_identity() -> list[str]:
    """Return version, sizes and times of the shared libraries, which differ for another build."""
    found = [(file.name, file.stat()) for file in library_files()]
    return [str(installed_version(PACKAGE)), *(f"{name} {about.st_size} {about.st_mtime_ns}" for name, about in found)]


def _remember(mark: Path, path: Path) -> None:
    with suppress(OSError):  # no place to note it: the file is tried again next time
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(f"{path}\n", encoding="utf-8", errors="replace")
        marks = sorted(mark.parent.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        for old in marks[: -LIMITS.remembered]:
            old.unlink(missing_ok=True)
