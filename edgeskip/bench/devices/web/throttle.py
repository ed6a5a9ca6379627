"""A slower processor for a group of processes: they are stopped for a fixed share of every few milliseconds.

The devtools protocol's own throttling (`Emulation.setCPUThrottlingRate`) slows a page's main thread alone: measured, a
worker beside it kept its full speed, and workers refuse the command. Inference runs in workers, so the whole browser is
stopped and continued instead: on the wall clock everything takes `factor` times as long, caches and memory included.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

from edgeskip.core.errors import EdgeSkipError

PERIOD_S = 0.02


def describe_throttle(factor: float) -> str:
    """For `Device.emulated`."""
    return f"{factor:g}x CPU throttling (stopped {100 * (1 - 1 / factor):.0f} % of every {1e3 * PERIOD_S:.0f} ms)"


class Throttle:
    """From the constructor to `close`."""

    def __init__(self, group: int, factor: float) -> None:
        if not factor > 1:
            raise EdgeSkipError(f"a throttling factor of {factor:g} slows nothing down: give more than 1, e.g. 4")
        if not hasattr(signal, "SIGSTOP"):
            raise EdgeSkipError("this system cannot stop processes for a while: leave throttling out")
        self._group, self._factor = group, factor
        self._ran = self._total = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._alternate, name="throttle", daemon=True)
        self._thread.start()

    @property
    def achieved(self) -> float:
        """Wall-clock time over running time so far; the factor asked for, but for what the clock allows."""
        return self._total / self._ran if self._ran else 1.0

    def close(self) -> None:
        """The processes run freely again."""
        self._end.set()
        self._thread.join(5)

    def _alternate(self) -> None:
        run_s = PERIOD_S / self._factor
        try:
            while not self._end.is_set():
                begin = time.perf_counter()
                os.killpg(self._group, signal.SIGCONT)
                time.sleep(run_s)
                os.killpg(self._group, signal.SIGSTOP)
                ran = time.perf_counter() - begin
                # What it overslept while running is made up for while stopped.
                time.sleep(max(0.0, ran * (self._factor - 1)))
                self._ran += ran
                self._total += time.perf_counter() - begin
        except (ProcessLookupError, PermissionError):
            return  # it has ended
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._group, signal.SIGCONT)
