"""The launcher of this machine: every round is a process of this, or another, Python."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeskip.bench.runner.launcher import StatusCallback
from edgeskip.bench.runner.process import CHILD, run_worker
from edgeskip.bench.runner.request import RoundRequest
from edgeskip.bench.schema import Device, Roofline, RoundResult

DEVICE_TIMEOUT_S = 120.0


class LocalLauncher:
    """`pythons`: by provider, an interpreter whose onnxruntime is another build; all others use this one.

    `silence_s`: how long a process may say nothing before it counts as hung.
    """

    def __init__(
        self,
        cells: Sequence[tuple[str, int]],
        *,
        pythons: Mapping[str, Path] | None = None,
        silence_s: float = 1800.0,
    ) -> None:
        """Ask the machine what it is. `cells`: providers and threads to measure rooflines of; 0 threads = default."""
        self._pythons = dict(pythons or {})
        self._silence_s = silence_s
        self._wanted: dict[str, list[str]] = {sys.executable: []}  # by interpreter
        for provider, threads in dict.fromkeys(cells):
            self._wanted.setdefault(self._python(provider), []).append(f"{provider}:{threads}")
        devices = self._asked()
        rooflines = [roofline for device in devices for roofline in device.rooflines]
        versions = dict(devices[0].versions)
        for provider, python in self._pythons.items():
            other = devices[list(self._wanted).index(str(python))].versions
            versions |= {f"{name} ({provider})": version for name, version in other.items() if "onnxruntime" in name}
        self._device = devices[0].model_copy(update={"rooflines": rooflines, "versions": versions})

    @property
    def device(self) -> Device:
        return self._device

    def prepare(self, path: Path, progress: StatusCallback) -> str:
        return str(path.absolute())

    def run(self, request: RoundRequest, progress: StatusCallback) -> RoundResult:
        python = self._python(request.cell.provider)
        return RoundResult.model_validate(run_worker([python, "-P", "-m", CHILD], request, self._silence_s, progress))

    def rooflines_again(self, progress: StatusCallback) -> list[Roofline]:
        return [roofline for device in self._asked() for roofline in device.rooflines]

    def close(self) -> None:
        pass

    def _asked(self) -> list[Device]:
        """Return the machine as each interpreter sees it."""
        return [
            Device.model_validate(
                run_worker(
                    [python, "-P", "-m", CHILD, "--device", "--roofline", ",".join(wanted)], None, DEVICE_TIMEOUT_S
                )
            )
            for python, wanted in self._wanted.items()
        ]

    def _python(self, provider: str) -> str:
        return str(self._pythons.get(provider, sys.executable))
