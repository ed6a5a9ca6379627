"""Joules, if the system exposes a counter: the processor's (RAPL), an NVIDIA GPU's (NVML), a battery's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgeskip.bench.runner.nvml import first_gpu
from edgeskip.bench.schema import EnergyUse

_ROOT = Path("/")
_WH = 3600.0  # joules


@dataclass(frozen=True)
class EnergyCounter:
    """`joules()` since some moment; it restarts at 0 after `wraps_at`, None = never."""

    source: str
    joules: Callable[[], float]
    wraps_at: float | None = None


class EnergyMeter:
    """Joules between its making and `energy`, by every counter there is for the provider."""

    def __init__(self, provider: str, root: Path = _ROOT) -> None:
        self._counters = energy_counters(provider, root)
        self._begin = [counter.joules() for counter in self._counters]

    def energy(self) -> EnergyUse | None:
        """Return the joules; None without a counter, or if it did not move meanwhile (a battery's is coarse)."""
        used = [
            _joules_between(counter, before, counter.joules())
            for counter, before in zip(self._counters, self._begin, strict=True)
        ]
        if not used or sum(used) <= 0:
            return None
        return EnergyUse(joules=sum(used), source=" + ".join(counter.source for counter in self._counters))


def energy_counters(provider: str, root: Path = _ROOT) -> list[EnergyCounter]:
    """Return the processor packages' counters, for `cuda` the GPU's too; without these a battery's."""
    found = _rapl(root)
    if provider.startswith("cuda"):
        found += _nvml()
    return found or _battery(root)


def _rapl(root: Path) -> list[EnergyCounter]:
    found = []
    for zone in sorted(root.glob("sys/class/powercap/intel-rapl:*")):
        name = _text(zone / "name")
        if not name.startswith("package") or _micro(zone / "energy_uj") is None:
            continue  # the kernel lets only root read it
        limit = _micro(zone / "max_energy_range_uj")
        found.append(EnergyCounter(f"RAPL {name}", lambda zone=zone: _micro(zone / "energy_uj") or 0.0, limit))  # type: ignore[misc]
    return found


def _nvml() -> list[EnergyCounter]:
    found = first_gpu()
    if found is None:
        return []
    pynvml, handle = found
    try:
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:  # a GPU without the counter
        return []
    return [EnergyCounter("NVML", lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)]


def _battery(root: Path) -> list[EnergyCounter]:
    """Return counters of discharging batteries: mains power is not counted there."""
    found = []
    for supply in sorted(root.glob("sys/class/power_supply/*")):
        if _text(supply / "type") != "Battery" or _text(supply / "status") != "Discharging":
            continue
        if _micro(supply / "energy_now") is not None:
            found.append(EnergyCounter("battery", partial(_battery_joules, supply / "energy_now", 1.0)))
        elif _micro(supply / "charge_now") is not None and _micro(supply / "voltage_now") is not None:
            volts = _micro(supply / "voltage_now") or 0.0
            found.append(EnergyCounter("battery", partial(_battery_joules, supply / "charge_now", volts)))
    return found


def _battery_joules(file: Path, volts: float) -> float:
    return -_WH * volts * (_micro(file) or 0.0)


def _joules_between(counter: EnergyCounter, before: float, after: float) -> float:
    if after < before and counter.wraps_at is not None:
        after += counter.wraps_at
    return after - before


def _micro(file: Path) -> float | None:
    """Read a file that holds millionths."""
    text = _text(file)
    return int(text) / 1e6 if text.isdigit() else None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
