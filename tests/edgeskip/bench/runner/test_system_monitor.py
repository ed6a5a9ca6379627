"""What the machine does meanwhile, and joules. Oracle: made-up /proc and /sys, and by hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeskip.bench.runner import system_monitor as conditions
from edgeskip.bench.runner.energy import EnergyMeter, energy_counters
from edgeskip.bench.runner.system_monitor import SystemMonitor, clock_mhz, cpu_probe, temperature_c, throttle_events


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")


def test_clock_temperature_and_throttling(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1800000",
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2200000",
            "sys/class/thermal/thermal_zone0/temp": "41500",
            "sys/class/thermal/thermal_zone1/temp": "63000",
            "sys/class/thermal/thermal_zone2/temp": "-274000",  # a zone that is off
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3",
            "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "4",
        },
    )
    assert (clock_mhz(tmp_path), temperature_c(tmp_path), throttle_events(tmp_path)) == (2000, 63, 7)


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    seen = SystemMonitor(tmp_path).conditions()
    assert (seen.others_cores, seen.clock_mhz, seen.temperature_c, seen.throttle_events) == (None, [], [], None)
    assert all(rate > 0 for rate in seen.pulse)


def test_other_programs_are_counted_and_this_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 s of processor time in 2 s, of which 1 s is ours: others kept 1.5 cores busy."""
    ticks = os.sysconf("SC_CLK_TCK")
    write(tmp_path, {"proc/stat": "cpu 0 0 0 900 0 0 0 0"})
    times = iter([(0.0, 0.0, 0.0, 0.0, 0.0), (0.75, 0.25, 0.0, 0.0, 0.0)])
    moments = iter([100.0, 102.0])
    monkeypatch.setattr(conditions, "cpu_probe", lambda: 1000.0)
    monkeypatch.setattr(conditions.os, "times", lambda: os.times_result(next(times)))
    monkeypatch.setattr(conditions.time, "perf_counter", lambda: next(moments))
    watch = SystemMonitor(tmp_path)
    write(tmp_path, {"proc/stat": f"cpu {3 * ticks} 0 {ticks} 900 0 0 0 0"})
    assert watch.conditions().others_cores == 1.5


def test_pulse_counts_hashes() -> None:
    """Any processor of the last twenty years hashes 256 KiB between ten and a hundred thousand times a second."""
    assert 10 < cpu_probe() < 100_000


def test_rapl_counts_packages_and_wraps(tmp_path: Path) -> None:
    zone = "sys/class/powercap/intel-rapl:0"
    write(
        tmp_path,
        {
            f"{zone}/name": "package-0",
            f"{zone}/energy_uj": "9000000",
            f"{zone}/max_energy_range_uj": "10000000",
            "sys/class/powercap/intel-rapl:1/name": "psys",  # the whole platform, the package in it
            "sys/class/powercap/intel-rapl:1/energy_uj": "1",
        },
    )
    meter = EnergyMeter("cpu", tmp_path)
    write(tmp_path, {f"{zone}/energy_uj": "2500000"})
    energy = meter.energy()
    assert energy is not None
    assert (energy.joules, energy.source) == (pytest.approx(3.5), "RAPL package-0")


@pytest.mark.parametrize(
    ("before", "after", "joules"),
    [
        ({"energy_now": "50000000"}, {"energy_now": "49990000"}, 36.0),  # 10 mWh
        (
            {"charge_now": "4000000", "voltage_now": "4000000"},
            {"charge_now": "3999000", "voltage_now": "3900000"},
            14.4,  # 1 mAh at 4 V
        ),
    ],
)
def test_a_battery_counts_while_it_discharges(
    tmp_path: Path, before: dict[str, str], after: dict[str, str], joules: float
) -> None:
    battery = "sys/class/power_supply/BAT0"
    write(tmp_path, {f"{battery}/type": "Battery", f"{battery}/status": "Discharging"})
    write(tmp_path, {f"{battery}/{name}": text for name, text in before.items()})
    meter = EnergyMeter("cpu", tmp_path)
    write(tmp_path, {f"{battery}/{name}": text for name, text in after.items()})
    energy = meter.energy()
    assert energy is not None
    assert energy.joules == pytest.approx(joules)
    assert energy.source == "battery"


def test_nothing_is_told_of_a_machine_on_mains_or_a_counter_that_stood_still(tmp_path: Path) -> None:
    battery = "sys/class/power_supply/BAT0"
    write(tmp_path, {f"{battery}/type": "Battery", f"{battery}/status": "Charging", f"{battery}/energy_now": "1"})
    assert energy_counters("cpu", tmp_path) == []
    assert EnergyMeter("cpu", tmp_path).energy() is None
    write(tmp_path, {f"{battery}/status": "Discharging"})
    assert EnergyMeter("cpu", tmp_path).energy() is None
