"""The NVIDIA GPU that a program here computes on, as NVML knows it."""

from __future__ import annotations

import os
from typing import Any


def first_gpu() -> tuple[Any, Any] | None:
    """(the pynvml module, the handle of the first visible device); None without the package, a driver or a GPU.

    CUDA numbers the devices that CUDA_VISIBLE_DEVICES leaves it, NVML numbers all.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
        if named and not named.isdigit():
            return pynvml, pynvml.nvmlDeviceGetHandleByUUID(named.encode())
        return pynvml, pynvml.nvmlDeviceGetHandleByIndex(int(named or 0))
    except Exception:  # NVML's own errors share no base that exists without the package
        return None
