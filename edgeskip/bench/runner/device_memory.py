"""Memory that a run takes of an accelerator, where its driver tells."""

from __future__ import annotations

from edgeskip.bench.runner.nvml import first_gpu


class DeviceMemory:
    """Counts from its making; for CUDA by NVML, for others nothing is told."""

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
