"""Which processors this build of llama.cpp can compute on, under the names that `--provider` takes."""

from __future__ import annotations

import ctypes
from typing import Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.llamacpp.library import ggml_function, llama

_OTHER_NAMES = {"mtl": "metal"}
_HELPERS = ("cpu", "blas", "rpc")  # compute on the CPU, speed up parts of it, or are elsewhere


def find_devices(provider: str) -> list[int]:
    """ggml's device handles behind `provider`, none for `cpu`; EdgeSkipError lists what this build has."""
    devices = _devices()
    name = provider.lower()
    if name == "cpu":
        return []
    usable = ", ".join(["cpu", *devices])
    if name not in devices:
        hint = "" if devices else ": install a build with GPU support, see llama-cpp-python's README"
        raise EdgeSkipError(
            f"this llama-cpp-python cannot run on {provider!r} (available here: {usable}){hint}, or use the "
            "provider cpu"
        )
    return devices[name]


def _devices() -> dict[str, list[int]]:
    """Provider name -> handles of its devices; empty where this build computes on the CPU alone."""
    if not llama().llama_supports_gpu_offload():
        return {}
    handle: Any = ctypes.c_void_p
    count = ggml_function("ggml_backend_dev_count", ctypes.c_size_t, ())
    get = ggml_function("ggml_backend_dev_get", handle, (ctypes.c_size_t,))
    registry = ggml_function("ggml_backend_dev_backend_reg", handle, (handle,))
    registry_name = ggml_function("ggml_backend_reg_name", ctypes.c_char_p, (handle,))
    devices: dict[str, list[int]] = {}
    for device in map(get, range(count())):
        name = registry_name(registry(device)).decode().lower()
        if name not in _HELPERS:
            devices.setdefault(_OTHER_NAMES.get(name, name), []).append(device)
    return devices
