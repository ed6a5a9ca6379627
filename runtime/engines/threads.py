"""The number of threads to compute with: the default and the limit."""

from __future__ import annotations

import operator
import os
from pathlib import Path

from edgeskip.core.errors import EdgeSkipError, shown
from edgeskip.core.machine import usable_cores

_PER_PROCESSOR = 4  # more are always slower; tens of thousands hang or end the process
_LEAST_BOUND = 8


def default_threads() -> int:
    """Return the number of physical cores that this process may use: hyperthreads share what decoding needs."""
    return max(1, min(len({_core_of(cpu) for cpu in _processors()}), usable_cores()))


def most_threads() -> int:
    """Return the most threads that a user may ask for: four per logical processor of this process, at least eight."""
    return max(_LEAST_BOUND, _PER_PROCESSOR * len(_processors()))


def threads_or_default(threads: int | None) -> int:
    """Return `threads`, or the number of physical cores if it is None; raises EdgeSkipError if it is not valid here."""
    if threads is None:
        return default_threads()
    try:
        count = 0 if isinstance(threads, bool) else operator.index(threads)
    except TypeError:
        count = 0
    if not 1 <= count <= most_threads():
        raise EdgeSkipError(
            f"threads must be a whole number from 1 to {most_threads()}, not {shown(threads, 40)}: this machine has "
            f"{len(_processors())} logical processors, and more threads than those do not make it faster"
        )
    return count


def _processors() -> set[int]:
    """Return the logical processors that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _core_of(cpu: int) -> str:
    """Return the list of hyperthreads of a logical processor's core, which identifies it; itself if that is unknown."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii")
    except OSError:
        return str(cpu)
