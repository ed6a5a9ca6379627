"""Execution providers that come as plugins: packages beside ONNX Runtime, each with a library to be registered.

By convention such a package is called `onnxruntime_ep_NAME` and has `get_library_path()`.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from edgeskip.core.errors import EdgeSkipError

_PREFIX = "edgeskip."  # of the names our registrations have in ONNX Runtime
_registered: set[str] = set()


def plugin_devices(name: str, execution_provider: str, device_type: str | None) -> tuple[Any, ...]:
    """Return the first device (`OrtEpDevice`) that the plugin for `name` offers; () = no plugin is installed.

    `device_type`: cpu, gpu or npu; None prefers the CPU, then takes what there is. Raises EdgeSkipError if the plugin
    is installed and cannot be used here.
    """
    module = plugin_module(name)
    if module is None:
        return ()
    import onnxruntime

    if not hasattr(onnxruntime, "register_execution_provider_library"):
        raise EdgeSkipError(f"onnxruntime {onnxruntime.__version__} takes no plugins: pip install -U onnxruntime")
    if name not in _registered:
        try:
            path = importlib.import_module(module).get_library_path()
            onnxruntime.register_execution_provider_library(f"{_PREFIX}{name}", path)
        except Exception as error:  # onnxruntime's own classes share no base but Exception
            line = " ".join(str(error).split())[:300]
            raise EdgeSkipError(
                f"the plugin {module} cannot be loaded ({line}): pip install -U --force-reinstall {_package(module)}"
            ) from error
        _registered.add(name)
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == execution_provider]
    wanted = [device for device in devices if _type_of(device) == (device_type or "cpu")]
    if device_type is None:
        wanted = wanted or devices
    if not wanted:
        found = ", ".join(sorted({_type_of(device) for device in devices})) or "none"
        kind = f"{device_type} device" if device_type else "device"
        raise EdgeSkipError(
            f"the plugin {module} finds no {kind} it supports here (it found: {found}){_HINTS.get(name, '')}"
        )
    return (wanted[0],)


def plugin_module(name: str) -> str | None:
    """Return the module of the plugin for `name`, None if it is not installed; it is not imported."""
    module = f"onnxruntime_ep_{name}"
    return None if importlib.util.find_spec(module) is None else module


# The plugin asks for Intel's vendor id, though OpenVINO itself runs elsewhere (onnxruntime pull request 31981).
_HINTS = {
    "openvino": "; it takes Intel's processors only: onnxruntime-openvino, in place of onnxruntime, takes others too"
}


def _type_of(device: Any) -> str:
    """Return the kind of a device: cpu, gpu or npu."""
    return str(device.device.type).rpartition(".")[2].lower()


def _package(module: str) -> str:
    return module.replace("_", "-")
