"""Memory that a run takes of an accelerator, where its driver tells."""

from __future__ import annotations


class DeviceMemory:
    """Counts from its making; for CUDA by NVML, for others nothing is told."""

    def __init__(self, provider: str) -> None:
        self._before = _used() if provider.startswith("cuda") else None

    def taken(self) -> int | None:
        """Bytes of device 0 in use more than before: ONNX Runtime gives back nothing while a session lives, so near
        its peak; other programs' changes are in it."""
        now = None if self._before is None else _used()
        return None if now is None or self._before is None else max(0, now - self._before)


def _used() -> int | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used)
    except Exception:  # no package or no driver
        return None
