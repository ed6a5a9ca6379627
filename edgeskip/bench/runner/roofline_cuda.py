"""Bandwidth of an NVIDIA GPU's memory: a copy within the device, timed through the driver library alone."""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
import time

_BYTES = 512 << 20


def device_bandwidth(seconds: float) -> tuple[float | None, str]:
    """Return the bytes a second of device 0, the best within `seconds`, and how that was measured; None if unknown."""
    try:
        return _copy_rate(seconds), f"copy of {_BYTES >> 20} MiB within the device, read and write counted"
    except (OSError, AttributeError, RuntimeError) as error:
        return None, f"not measured ({error})"[:300]


def _copy_rate(seconds: float) -> float:
    """https://docs.nvidia.com/cuda/cuda-driver-api: the primary context of device 0, two buffers, cuMemcpyDtoD."""
    cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")

    def call(name: str, *arguments: object) -> None:
        status = getattr(cuda, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} answers {status}")

    device, context = ctypes.c_int(), ctypes.c_void_p()
    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    buffers = [ctypes.c_uint64(), ctypes.c_uint64()]
    try:
        call("cuCtxSetCurrent", context)
        for buffer in buffers:
            call("cuMemAlloc_v2", ctypes.byref(buffer), ctypes.c_size_t(_BYTES))
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < 3 or time.perf_counter() < end:
            begin = time.perf_counter()
            call("cuMemcpyDtoD_v2", buffers[0], buffers[1], ctypes.c_size_t(_BYTES))
            call("cuCtxSynchronize")
            times.append(time.perf_counter() - begin)
        return 2 * _BYTES / min(times)
    finally:
        for buffer in buffers:
            if buffer.value:
                cuda.cuMemFree_v2(buffer)
        cuda.cuDevicePrimaryCtxRelease_v2(device)
