"""This machine as the record of a benchmark: what the system says of itself, which versions run."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from edgeskip.bench.schema import Device, DeviceKind, Roofline
from edgeskip.core.machine import this_machine
from edgeskip.core.requirements import installed_version, onnxruntime_builds
from edgeskip.core.version import __version__
from edgeskip.runtime.engines.threads import default_threads

_PACKAGES = ("llama-cpp-python", "numpy", "tokenizers", "onnxruntime-ep-openvino", "onnxruntime-ep-webgpu")


def this_device(*, id: str = "local", type: DeviceKind = "local", rooflines: Sequence[Roofline] = ()) -> Device:
    """Return the machine this process runs on; `name` is its board's or processor's, and its GPUs'."""
    machine = this_machine()
    versions = {"edgeskip": __version__, "python": platform.python_version(), **onnxruntime_builds()}
    versions |= {package: version for package in _PACKAGES if (version := installed_version(package))}
    cores = f"{machine.usable_cores} core{'s' if machine.usable_cores > 1 else ''}"
    gpus = [gpu.split(",")[0] for gpu in machine.gpus]
    return Device(
        id=id,
        type=type,
        name=", ".join([_board() or machine.processor, cores, *gpus]),
        facts={
            **asdict(machine),
            "default_threads": default_threads(),
            "host": socket.gethostname(),
            "glibc_tunables": os.environ.get("GLIBC_TUNABLES"),
        },
        versions=versions,
        rooflines=list(rooflines),
    )


def _board() -> str:
    """Return a single-board computer's own name, e.g. Raspberry Pi 5 Model B; '' if there is none."""
    try:
        return Path("/proc/device-tree/model").read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""
