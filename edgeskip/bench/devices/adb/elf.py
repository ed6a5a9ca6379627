"""For which processor an ELF file is, by its header."""

from __future__ import annotations

import struct
from pathlib import Path

from edgeskip.core.errors import EdgeSkipError

# e_machine of the ELF header -> its name; and of which machine code an Android ABI is.
_NAMES = {3: "x86", 40: "32-bit Arm", 62: "x86-64", 183: "64-bit Arm", 243: "RISC-V"}
_OF_ABI = {"arm64-v8a": 183, "armeabi-v7a": 40, "armeabi": 40, "x86_64": 62, "x86": 3, "riscv64": 243}


def check_abi(path: Path, abis: tuple[str, ...]) -> None:
    """EdgeSkipError where the program or library at `path` is for none of a phone's ABIs."""
    machine = _machine(path)
    if machine not in {_OF_ABI.get(abi) for abi in abis}:
        raise EdgeSkipError(
            f"{path} is a program for {_NAMES.get(machine, f'processor {machine}')}, the phone runs {', '.join(abis)}: "
            "give a llama-bench built for Android with its NDK"
        )


def _machine(path: Path) -> int:
    try:
        with path.open("rb") as file:
            header = file.read(20)
    except OSError as error:
        raise EdgeSkipError(f"cannot read {path} ({error.strerror}): give the path of a llama-bench") from None
    if len(header) < 20 or header[:4] != b"\x7fELF":
        raise EdgeSkipError(f"{path} is no program for Android (no ELF file): give a llama-bench built with its NDK")
    return int(struct.unpack("<H" if header[5] == 1 else ">H", header[18:20])[0])
