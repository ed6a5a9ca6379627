"""The NVIDIA GPU that a program here computes on, as NVML knows it."""

from __future__ import annotations

import os
from typing import Any

from edgeskip.core.whole_number import whole_number


def first_gpu() -> tuple[Any, Any] | None:
    """Return (the pynvml module, the first visible device's handle); None without the package, a driver or a GPU.

    CUDA numbers the devices that CUDA_VISIBLE_DEVICES leaves it, NVML numbers all.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
        number = whole_number(named or "0")
        if number is None:
            return pynvml, pynvml.nvmlDeviceGetHandleByUUID(named.encode())
        return pynvml, pynvml.nvmlDeviceGetHandleByIndex(number)
    except Exception:  # NVML's own errors share no base that exists without the package
        return None


class DeviceMemory:
    """Counts from its making; NVML reports it for CUDA, nothing does for others."""

    def __init__(self, provider: str) -> None:
        self._before = _used() if provider.startswith("cuda") else None

    def allocated_bytes(self) -> int | None:
        """Bytes of the GPU in use more than before: ONNX Runtime gives back nothing while a session lives, so near
        its peak; other programs' changes are in it."""
        now = None if self._before is None else _used()
        return None if now is None or self._before is None else max(0, now - self._before)


def _used() -> int | None:
    found = first_gpu()
    return None if found is None else int(found[0].nvmlDeviceGetMemoryInfo(found[1]).used)
