"""How busy the machine was, and with what: figures taken beside other work are worth little."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeskip.core.machine import this_machine


def describe() -> dict[str, Any]:
    """The machine, its load average over 1, 5 and 15 minutes, and how the C library was told to take memory."""
    allocation = os.environ.get("GLIBC_TUNABLES")
    return {**asdict(this_machine()), "load_average": list(os.getloadavg()), "glibc_tunables": allocation}


@dataclass(frozen=True)
class CpuTime:
    """CPU seconds used so far: by the whole machine and by one process."""

    machine_s: float
    process_s: float

    def others_since(self, earlier: CpuTime, seconds: float) -> float:
        """Cores that everything but the process kept busy over the last `seconds`; 0.02 is a quiet machine."""
        busy = (self.machine_s - earlier.machine_s) - (self.process_s - earlier.process_s)
        return max(0.0, busy / seconds)


def cpu_time(process: int) -> CpuTime | None:
    """CPU seconds of the machine and of process id `process`, from /proc; None where there is no /proc."""
    try:
        machine = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        own = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    user, nice, system, _idle, _iowait, irq, softirq = (int(value) for value in machine[:7])
    return CpuTime((user + nice + system + irq + softirq) / ticks, (int(own[11]) + int(own[12])) / ticks)
