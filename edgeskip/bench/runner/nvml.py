"""The NVIDIA GPU that a program here computes on, as NVML knows it."""

from __future__ import annotations

import os
from typing import Any

from edgeskip.core.whole_number import whole_number


def first_gpu() -> tuple[Any, Any] | None:
    """(the pynvml module, the handle of the first visible device); None without the package, a driver or a GPU.

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
