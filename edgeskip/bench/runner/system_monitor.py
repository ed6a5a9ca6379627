"""What else the machine does while a cell is measured: other load, clocks, temperature, throttling.

Linux reports most of it in /proc and /sys; what a system does not report is left out, never guessed.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from edgeskip.bench.schema import SystemConditions

_PROBE_S = 0.04
_PROBE_BYTES = 1 << 18
_ROOT = Path("/")
BUSY_CORES = 0.1
"""A round is doubtful if everything else kept more cores busy."""
SLOWER = 0.10
"""A round is doubtful if the CPU probe lost more than this share of its speed."""


class SystemMonitor:
    """Looks at the machine when it is made and again at `conditions`; proc and sys are in `root`."""

    def __init__(self, root: Path = _ROOT) -> None:
        self._root = root
        self._pulse = cpu_probe()
        self._clock, self._temperature = clock_mhz(root), temperature_c(root)
        self._throttled = throttle_events(root)
        self._begin, self._cpu = time.perf_counter(), _cpu_seconds(root)

    def conditions(self) -> SystemConditions:
        """Return what the machine has done since."""
        seconds, cpu = time.perf_counter() - self._begin, _cpu_seconds(self._root)
        others = None
        if cpu is not None and self._cpu is not None and seconds > 0:
            busy = (cpu[0] - self._cpu[0]) - (cpu[1] - self._cpu[1])
            others = round(max(0.0, busy / seconds), 4)
        throttled = throttle_events(self._root)
        events = None if throttled is None or self._throttled is None else throttled - self._throttled
        return SystemConditions(
            others_cores=others,
            pulse=[round(self._pulse, 1), round(cpu_probe(), 1)],
            clock_mhz=_before_after(self._clock, clock_mhz(self._root)),
            temperature_c=_before_after(self._temperature, temperature_c(self._root)),
            throttle_events=None if events is None else max(0, events),
            load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        )


def cpu_probe() -> float:
    """Return how often a second one thread hashes 256 KiB now, the best of a few: follows the clock, not the memory."""
    data = bytes(_PROBE_BYTES)
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < _PROBE_S:
        started = time.perf_counter()
        hashlib.sha256(data).digest()
        best = min(best, time.perf_counter() - started)
    return 1 / best


def slowdown_after(conditions: SystemConditions) -> float:
    """Return the share of its speed that the CPU probe lost from before the round to after it; 0 if unknown."""
    pulse = conditions.pulse
    return max(0.0, 1 - pulse[-1] / pulse[0]) if len(pulse) > 1 and pulse[0] > 0 else 0.0


def slowdown_vs_best(conditions: SystemConditions, best: float | None) -> float:
    """Return the share of its best speed that the CPU probe lacked at its slowest in the round; 0 if unknown."""
    return max(0.0, 1 - min(conditions.pulse) / best) if conditions.pulse and best else 0.0


def clock_mhz(root: Path = _ROOT) -> float | None:
    """Return the mean clock of the cores now, MHz."""
    cores = [_number(file) for file in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")]
    found = [khz / 1e3 for khz in cores if khz is not None]
    if not found:
        lines = _text(root / "proc/cpuinfo").splitlines()
        values = [line.partition(":")[2].strip() for line in lines if line.startswith("cpu MHz")]
        found = [float(value) for value in values if value.replace(".", "", 1).isdigit()]
    return _mean(found)


def temperature_c(root: Path = _ROOT) -> float | None:
    """Return the hottest thermal zone, °C."""
    zones = [_number(file) for file in root.glob("sys/class/thermal/thermal_zone*/temp")]
    found = [zone / 1e3 for zone in zones if zone is not None and 0 < zone < 200_000]
    return max(found) if found else None


def throttle_events(root: Path = _ROOT) -> int | None:
    """Return the kernel's count of thermal throttling, all cores."""
    counts = [_number(f) for f in root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")]
    found = [count for count in counts if count is not None]
    return int(sum(found)) if found else None


def _cpu_seconds(root: Path) -> tuple[float, float] | None:
    """Return the CPU seconds used so far by the whole machine and by this process."""
    line = _text(root / "proc/stat").partition("\n")[0].split()
    if len(line) < 8 or line[0] != "cpu":
        return None
    # idle and iowait left out; guests' time is within user's.
    user, nice, system, _idle, _iowait, irq, softirq = (int(value) for value in line[1:8])
    own = os.times()
    used = own.user + own.system + own.children_user + own.children_system
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK"), used


def _before_after(before: float | None, after: float | None) -> list[float]:
    return [] if before is None or after is None else [round(before, 1), round(after, 1)]


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def _number(file: Path) -> float | None:
    text = _text(file).strip()
    return float(text) if text.lstrip("-").isdigit() else None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
