"""What a phone reports about itself: what it is, its power, how warm it is; and waiting until it has cooled."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgeskip.bench.devices.adb.adb import Adb
from edgeskip.bench.runner.launcher import StatusCallback
from edgeskip.bench.schema import Device
from edgeskip.core.errors import EdgeSkipError

# Types of the thermal service that are degrees of something the processor warms: processor, GPU, battery, skin, NPU.
_WARM_TYPES = {0, 1, 2, 3, 9}
_WARM_ZONES = re.compile(r"cpu|gpu|soc|tsens|skin|batt|xo.therm|quiet.therm|cluster", re.IGNORECASE)
_ZONES = 'for z in /sys/class/thermal/thermal_zone*; do echo "$(cat $z/type) $(cat $z/temp)"; done 2>/dev/null'
_POWERED = re.compile(r"(AC|USB|Wireless|Dock) powered: true")


@dataclass(frozen=True)
class PhoneInfo:
    """`abis`: what its programs may be built for, the best first."""

    device: Device
    abis: tuple[str, ...]


def read_phone(adb: Adb) -> PhoneInfo:
    """Return what the phone is. Raises EdgeSkipError if it does not report that."""
    properties = dict(re.findall(r"^\[(.+?)\]: \[(.*)\]\r?$", adb.shell("getprop").out, re.MULTILINE))
    abis = properties.get("ro.product.cpu.abilist") or properties.get("ro.product.cpu.abi") or ""
    if not abis:
        raise EdgeSkipError(f"the phone {adb.serial} does not say for which processor it is: is it Android?")
    maker, model = (properties.get(f"ro.product.{name}", "").strip() for name in ("manufacturer", "model"))
    soc = " ".join(filter(None, (properties.get("ro.soc.manufacturer"), properties.get("ro.soc.model"))))
    soc = soc or properties.get("ro.board.platform", "") or properties.get("ro.hardware", "")
    clocks = adb.shell("cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq").out.split()
    memory = re.search(r"^MemTotal:\s+(\d+) kB", adb.shell("cat /proc/meminfo").out, re.MULTILINE)
    facts: dict[str, Any] = {
        "android": properties.get("ro.build.version.release"),
        "sdk": properties.get("ro.build.version.sdk"),
        "soc": soc,
        "abi": abis.split(",")[0],
        "cores_max_mhz": [int(clock) // 1000 for clock in clocks if clock.isdigit()],
        "memory_bytes": int(memory[1]) * 1024 if memory else None,
    }
    name = f"{maker} {model}".strip() if not model.lower().startswith(maker.lower()) else model
    # Results are passed on: they tell phones of one model apart, but not the serial number.
    mark = hashlib.sha256(adb.serial.encode()).hexdigest()[:6]
    device = Device(
        id=f"{model or 'phone'} {mark}",
        type="adb",
        name=(f"{name or 'an Android phone'} ({soc})" if soc else name or "an Android phone")[:500],
        facts=facts,
        versions={"android": str(facts["android"])} if facts["android"] else {},
    )
    return PhoneInfo(device, tuple(abis.split(",")))


def free_bytes(adb: Adb, folder: str) -> int | None:
    """Return the free bytes of the file system that holds `folder`; None if df does not report them."""
    lines = adb.shell(f"df -k {folder}").out.splitlines()
    fields = lines[-1].split() if lines else []
    return int(fields[-3]) * 1024 if len(fields) >= 5 and fields[-3].isdigit() else None


@dataclass(frozen=True)
class PhoneTemperature:
    """Degrees Celsius of the hottest sensor, None if there is none; `status`: Android's, 0 = not throttling."""

    celsius: float | None
    status: int | None


def read_temperature(adb: Adb) -> PhoneTemperature:
    """Read the thermal service (Android 10), else the kernel's zones, else the battery."""
    service = adb.shell("dumpsys thermalservice").out
    found = re.search(r"^Thermal Status: (\d+)", service, re.MULTILINE)
    status = int(found[1]) if found else None
    _, _, current = service.partition("Current temperatures from HAL:")
    current, _, _ = current.partition("Current cooling devices")
    readings = re.findall(r"Temperature\{mValue=([-\d.]+), mType=(-?\d+),", current)
    degrees = [float(value) for value, kind in readings if int(kind) in _WARM_TYPES]
    if not (degrees := _plausible(degrees)):
        degrees = _plausible(_zone_degrees(adb.shell(_ZONES).out))
    if not degrees:
        battery = re.search(r"^\s*temperature: (\d+)", adb.shell("dumpsys battery").out, re.MULTILINE)
        degrees = _plausible([int(battery[1]) / 10] if battery else [])
    return PhoneTemperature(max(degrees) if degrees else None, status)


def read_power(adb: Adb) -> list[str]:
    """Return what about its power may change its speed, in words."""
    battery = adb.shell("dumpsys battery").out
    level = re.search(r"^\s*level: (\d+)", battery, re.MULTILINE)
    powered = _POWERED.search(battery)
    words = [f"battery at {level[1]} %, {'plugged in' if powered else 'not plugged in'}"] if level else []
    awake = re.search(r"mWakefulness=(\w+)", adb.shell("dumpsys power | grep mWakefulness=").out)
    if awake:
        words.append(f"screen {'on' if awake[1] == 'Awake' else 'off'}")
    if adb.shell("settings get global low_power").out.strip() == "1":
        words.append("battery saver on: it caps the clocks")
    return words


def _zone_degrees(text: str) -> list[float]:
    found = []
    for line in text.splitlines():
        kind, _, value = line.strip().rpartition(" ")
        if kind and _WARM_ZONES.search(kind) and re.fullmatch(r"-?\d+", value):
            degrees = int(value)
            found.append(degrees / 1000 if abs(degrees) > 1000 else float(degrees))  # some kernels report degrees
    return found


def _plausible(degrees: list[float]) -> list[float]:
    """Drop missing sensors, which report 0 or impossible values."""
    return [value for value in degrees if 5 < value < 130]


@dataclass(frozen=True)
class CoolingPolicy:
    """Cool is at most `cool_c` and not throttling; as cool as it gets: less than `fall_c` cooler in `still_s`."""

    cool_c: float = 40.0
    fall_c: float = 0.5
    still_s: float = 45.0
    max_s: float = 300.0
    every_s: float = 5.0


@dataclass(frozen=True)
class CoolingResult:
    """How warm it is now; `note` says if it is warmer than wanted."""

    warmth: PhoneTemperature
    waited_s: float
    note: str | None


def wait_until_cool(
    adb: Adb,
    cooling: CoolingPolicy,
    progress: StatusCallback,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> CoolingResult:
    """Wait for `cooling.max_s` at most, give or take one reading."""
    start = clock()
    lowest, lowest_at = float("inf"), start
    while True:
        warmth, now = read_temperature(adb), clock()
        waited, celsius = now - start, warmth.celsius
        if celsius is None:
            return CoolingResult(warmth, waited, "the phone reports no temperature; skipped the cool-down wait")
        throttles = bool(warmth.status)
        if celsius <= cooling.cool_c and not throttles:
            return CoolingResult(warmth, waited, None)
        if celsius <= lowest - cooling.fall_c:
            lowest, lowest_at = celsius, now
        why = "throttling, " if throttles else ""
        if waited >= cooling.max_s:
            return CoolingResult(warmth, waited, f"{why}{celsius:.0f} °C after waiting {waited:.0f} s")
        if now - lowest_at >= cooling.still_s and not throttles:
            return CoolingResult(warmth, waited, f"{celsius:.0f} °C and no longer cooling after {waited:.0f} s")
        progress(f"waiting for the phone to cool: {why}{celsius:.0f} °C")
        sleep(cooling.every_s)
