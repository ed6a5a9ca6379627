"""How many threads to compute with where nobody says."""

from __future__ import annotations

import os
from pathlib import Path

from edgeskip.machine import usable_cores


def default_threads() -> int:
    """The cores this process may keep busy, hyperthreads of one core counted once: they share what decoding needs."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    return max(1, min(len({_core_of(cpu) for cpu in cpus}), usable_cores()))


def _core_of(cpu: int) -> str:
    """Names a logical processor's core by its list of hyperthreads; itself where the system does not say."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii")
    except OSError:
        return str(cpu)
