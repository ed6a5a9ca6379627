"""Waiting until a phone has cooled before a round: below a temperature, or as cool as it gets, or long enough."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from edgeskip.bench.devices.adb.adb import Adb
from edgeskip.bench.devices.adb.phone import PhoneTemperature, read_temperature
from edgeskip.bench.runner.launcher import StatusCallback


@dataclass(frozen=True)
class CoolingPolicy:
    """Cool is at most `cool_c` and not throttling; as cool as it gets: less than `fall_c` cooler in `still_s`."""

    cool_c: float = 40.0
    fall_c: float = 0.5
    still_s: float = 45.0
    most_s: float = 300.0
    every_s: float = 5.0


@dataclass(frozen=True)
class CoolingResult:
    """How warm it is now; `note` where it is warmer than was wanted."""

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
    """Ends after `cooling.most_s` at the latest, give or take one reading."""
    start = clock()
    lowest, lowest_at = float("inf"), start
    while True:
        warmth, now = read_temperature(adb), clock()
        waited, celsius = now - start, warmth.celsius
        if celsius is None:
            return CoolingResult(warmth, waited, "the phone tells no temperature: it was not waited for to cool")
        throttles = bool(warmth.status)
        if celsius <= cooling.cool_c and not throttles:
            return CoolingResult(warmth, waited, None)
        if celsius <= lowest - cooling.fall_c:
            lowest, lowest_at = celsius, now
        why = "throttling, " if throttles else ""
        if waited >= cooling.most_s:
            return CoolingResult(warmth, waited, f"{why}{celsius:.0f} °C after waiting {waited:.0f} s")
        if now - lowest_at >= cooling.still_s and not throttles:
            return CoolingResult(warmth, waited, f"{celsius:.0f} °C and no longer cooling after {waited:.0f} s")
        progress(f"waiting for the phone to cool: {why}{celsius:.0f} °C")
        sleep(cooling.every_s)
