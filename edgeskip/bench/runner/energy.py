"""Joules, where the system exposes a counter: the processor's (RAPL), an NVIDIA GPU's (NVML), a battery's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeskip.bench.runner.nvml import first_gpu
from edgeskip.bench.schema import Energy

_ROOT = Path("/")
_WH = 3600.0  # joules


@dataclass(frozen=True)
class Counter:
    """`joules()` since some moment; `wraps_at` is where it begins anew, None = never."""

    source: str
    joules: Callable[[], float]
    wraps_at: float | None = None


class Meter:
    """Joules between its making and `energy`, by every counter there is for the provider."""

    def __init__(self, provider: str, root: Path = _ROOT) -> None:
        self._counters = counters(provider, root)
        self._begin = [counter.joules() for counter in self._counters]

    def energy(self) -> Energy | None:
        """None where the system exposes nothing, or its counter did not move meanwhile (a battery's is coarse)."""
        used = [
            _difference(counter, before, counter.joules())
            for counter, before in zip(self._counters, self._begin, strict=True)
        ]
        if not used or sum(used) <= 0:
            return None
        return Energy(joules=sum(used), source=" + ".join(counter.source for counter in self._counters))


def counters(provider: str, root: Path = _ROOT) -> list[Counter]:
    """The processor's packages, and for `cuda` the GPU's counter; a battery's only where there are none of these."""
    found = _rapl(root)
    if provider.startswith("cuda"):
        found += _nvml()
    return found or _battery(root)


def _rapl(root: Path) -> list[Counter]:
    found = []
    for zone in sorted(root.glob("sys/class/powercap/intel-rapl:*")):
        name = _text(zone / "name")
        if not name.startswith("package") or _micro(zone / "energy_uj") is None:
            continue  # the kernel lets only root read it
        limit = _micro(zone / "max_energy_range_uj")
        found.append(Counter(f"RAPL {name}", lambda zone=zone: _micro(zone / "energy_uj") or 0.0, limit))  # type: ignore[misc]
    return found


def _nvml() -> list[Counter]:
    found = first_gpu()
    if found is None:
        return []
    pynvml, handle = found
    try:
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:  # a GPU without the counter
        return []
    return [Counter("NVML", lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)]


def _battery(root: Path) -> list[Counter]:
    """Discharging batteries only: what the mains gives is not counted there."""
    found = []
    for supply in sorted(root.glob("sys/class/power_supply/*")):
        if _text(supply / "type") != "Battery" or _text(supply / "status") != "Discharging":
            continue
        if _micro(supply / "energy_now") is not None:
            found.append(Counter("battery", lambda s=supply: -_WH * (_micro(s / "energy_now") or 0.0)))  # type: ignore[misc]
        elif _micro(supply / "charge_now") is not None and _micro(supply / "voltage_now") is not None:
            volts = _micro(supply / "voltage_now") or 0.0
            found.append(Counter("battery", lambda s=supply, v=volts: -_WH * v * (_micro(s / "charge_now") or 0.0)))  # type: ignore[misc]
    return found


def _difference(counter: Counter, before: float, after: float) -> float:
    if after < before and counter.wraps_at is not None:
        after += counter.wraps_at
    return after - before


def _micro(file: Path) -> float | None:
    """A file that holds millionths."""
    text = _text(file)
    return int(text) / 1e6 if text.isdigit() else None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
