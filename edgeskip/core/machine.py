"""What this machine is: processor, cores and memory a process may use, NVIDIA GPUs. Measures nothing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

# Instruction sets the int8, int4 and float kernels of ONNX Runtime and llama.cpp choose between, as Linux
# spells them in /proc/cpuinfo (x86: "flags", Arm: "Features").
SIMD_FLAGS = (
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
)


@dataclass(frozen=True)
class Machine:
    """Memory in bytes; None if the system does not say."""

    system: str
    processor: str
    logical_cores: int
    usable_cores: int  # what affinity and the container's quota leave this process
    simd: tuple[str, ...]
    memory_bytes: int | None
    available_memory_bytes: int | None
    gpus: tuple[str, ...]


def this_machine() -> Machine:
    """Return the machine this process runs on."""
    cpu = _cpuinfo()
    present = set(f"{cpu.get('flags', '')} {cpu.get('Features', '')}".split())
    if platform.system() == "Darwin":
        present |= {"asimd", "asimddp"} if platform.machine() == "arm64" else set()
    total, available = _memory()
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=cpu.get("model name")
        or _arm_core(cpu)
        or _sysctl("machdep.cpu.brand_string")
        or platform.processor()
        or "unknown",
        logical_cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        simd=tuple(flag for flag in SIMD_FLAGS if flag in present),
        memory_bytes=total,
        available_memory_bytes=available,
        gpus=nvidia_gpus(),
    )


def usable_cores() -> int:
    """Cores this process may keep busy: its affinity mask, cut by the container's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def processor_flags() -> frozenset[str]:
    """Return what the first processor can do, as Linux names it in /proc/cpuinfo; empty on other systems."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            begin = file.read(1 << 14)  # made as it is read: all of a large machine's takes 10 ms
    except OSError:
        return frozenset()
    fields = dict(line.split(":", 1) for line in begin.partition("\n\n")[0].splitlines() if ":" in line)
    found = {name.strip(): value for name, value in fields.items()}
    return frozenset(f"{found.get('flags', '')} {found.get('Features', '')}".split())


def nvidia_gpus() -> tuple[str, ...]:
    """Return one line per NVIDIA GPU (name, memory, driver version); empty without a working nvidia-smi."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    command = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())


def _memory() -> tuple[int | None, int | None]:
    fields = dict(line.split(":", 1) for line in _read("/proc/meminfo").splitlines() if ":" in line)
    total, available = (
        int(fields[name].split()[0]) * 1024 if name in fields else None for name in ("MemTotal", "MemAvailable")
    )
    if total is None:
        size = _sysctl("hw.memsize")
        total = int(size) if size.isdigit() else None
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    if limit.isdigit() and total is not None and int(limit) < total:
        total = int(limit)
        used = _read("/sys/fs/cgroup/memory.current").strip()
        if available is not None and used.isdigit():
            available = min(available, total - int(used))
    return total, available


# Main ID register, part number of implementer 0x41, as in Arm's technical reference manuals.
_ARM_CORES = {
    0xD03: "Cortex-A53", 0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD07: "Cortex-A57", 0xD08: "Cortex-A72",
    0xD09: "Cortex-A73", 0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76", 0xD0C: "Neoverse-N1", 0xD0D: "Cortex-A77",
    0xD40: "Neoverse-V1", 0xD41: "Cortex-A78", 0xD42: "Cortex-A78AE", 0xD44: "Cortex-X1", 0xD46: "Cortex-A510",
    0xD47: "Cortex-A710", 0xD48: "Cortex-X2", 0xD49: "Neoverse-N2", 0xD4D: "Cortex-A715", 0xD4E: "Cortex-X3",
    0xD4F: "Neoverse-V2", 0xD80: "Cortex-A520", 0xD81: "Cortex-A720", 0xD82: "Cortex-X4",
}  # fmt: skip


def _arm_core(cpu: dict[str, str]) -> str:
    """Return the first core's name on Linux on Arm, which has no "model name"; '' if this is none."""
    maker, part = cpu.get("CPU implementer", ""), cpu.get("CPU part", "")
    try:
        core = _ARM_CORES.get(int(part, 16)) if int(maker, 16) == 0x41 else None
    except ValueError:
        return ""
    return f"Arm {core}" if core else f"Arm, implementer {maker} part {part}"


def _cpuinfo() -> dict[str, str]:
    """Return the first processor's fields."""
    lines = _read("/proc/cpuinfo").partition("\n\n")[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _sysctl(name: str) -> str:
    if platform.system() != "Darwin":
        return ""
    try:
        command = ["/usr/sbin/sysctl", "-n", name]
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
