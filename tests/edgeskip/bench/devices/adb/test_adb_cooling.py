"""Waiting until a phone is cool, and what is noted of its warmth. Oracle: the temperatures the transcript tells."""

from __future__ import annotations

from adb_transcript import Entry, Transcript
from played_phone import Phone


def thermal(celsius: float, status: int = 0) -> Entry:
    lines = f"\tTemperature{{mValue={celsius}, mType=3, mName=SKIN, mStatus=0}}\nCurrent cooling devices from HAL:\n"
    return Entry("", out=f"Thermal Status: {status}\nCurrent temperatures from HAL:\n{lines}")


def test_a_phone_that_cools_no_further_is_taken_as_it_is(phone: Phone) -> None:
    phone.transcript = phone.transcript.answering(
        "shell dumpsys thermalservice", thermal(48), thermal(44.0), thermal(43.8)
    )
    assert "began at 44 °C and no longer cooling after 50 s" in phone.run().notes
    assert sum(phone.clock.slept) == 50  # 5 s to the second reading, then 45 s without half a degree


def test_a_phone_that_never_cools_is_waited_for_only_so_long(phone: Phone) -> None:
    falling = [thermal(90 - 0.6 * n) for n in range(80)]
    phone.transcript = phone.transcript.answering("shell dumpsys thermalservice", *falling)
    assert "began at 54 °C after waiting 300 s" in phone.run().notes


def test_throttling_is_waited_out_though_nothing_changes(phone: Phone) -> None:
    phone.transcript = phone.transcript.answering("shell dumpsys thermalservice", thermal(30, status=1))
    sample = phone.run()
    assert "began at throttling, 30 °C after waiting 300 s" in sample.notes


ZONES = 'shell for z in /sys/class/thermal/thermal_zone*; do echo "$(cat $z/type) $(cat $z/temp)"; done 2>/dev/null'


def test_temperatures_of_the_kernels_zones(phone: Phone) -> None:
    """Before Android 10, where the thermal service is not there; some kernels tell degrees, not thousandths."""
    phone.transcript = phone.transcript.saying("shell dumpsys thermalservice", "Can't find service: thermalservice\n")
    zones = "cpu-0-0-usr 36200\ncpu-1-0-usr 38900\ngpuss-0-usr 35\npm8998_tz 99000\nbattery 29000\nskin-therm \n"
    phone.transcript = Transcript((*phone.transcript.entries, Entry(ZONES, out=zones)))
    assert phone.run().conditions.temperature_c == [38.9, 38.9]


def test_temperature_of_the_battery_alone(phone: Phone) -> None:
    phone.transcript = phone.transcript.saying("shell dumpsys thermalservice", "Can't find service: thermalservice\n")
    phone.transcript = Transcript((*phone.transcript.entries, Entry(ZONES)))
    assert phone.run().conditions.temperature_c == [28.7, 28.7]


def test_no_temperature_at_all(phone: Phone) -> None:
    phone.transcript = phone.transcript.saying("shell dumpsys thermalservice").saying("shell dumpsys battery")
    phone.transcript = Transcript((*phone.transcript.entries, Entry(ZONES)))
    sample = phone.run()
    assert sample.conditions.temperature_c == []
    assert any("temperature" in note for note in sample.notes)


def test_battery_saver_is_noted(phone: Phone) -> None:
    phone.transcript = phone.transcript.saying("shell settings", "1\n")
    phone.transcript = phone.transcript.saying("shell dumpsys power", "  mWakefulness=Dozing\n")
    assert {"battery saver on: it caps the clocks", "screen off"} <= set(phone.run().notes)
