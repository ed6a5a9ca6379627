"""What a machine is called. Oracle: /proc/cpuinfo as kernels print it, and Arm's part numbers."""

from __future__ import annotations

import pytest

from edgeskip.core.machine import _arm_core


@pytest.mark.parametrize(
    ("cpu", "name"),
    [
        ({"CPU implementer": "0x41", "CPU part": "0xd0b"}, "Arm Cortex-A76"),  # a Raspberry Pi 5
        ({"CPU implementer": "0x41", "CPU part": "0xfff"}, "Arm, implementer 0x41 part 0xfff"),
        ({"CPU implementer": "0x51", "CPU part": "0x001"}, "Arm, implementer 0x51 part 0x001"),
        ({"flags": "avx2"}, ""),
        ({"CPU implementer": "?", "CPU part": "?"}, ""),
    ],
)
def test_an_arm_core_by_its_numbers(cpu: dict[str, str], name: str) -> None:
    assert _arm_core(cpu) == name
