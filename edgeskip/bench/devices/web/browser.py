"""A headless Chromium with its own profile: find it, start it, watch it, slow it down, end all its processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeskip.core.errors import EdgeSkipError, MissingExtraError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
_VERSION_TIMEOUT_S = 30.0
_TERM_S = 5.0  # to write its storage; then it is killed
_FLAGS = (
    "--headless=new",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--metrics-recording-only",
    "--password-store=basic",
    "--no-proxy-server",  # the server is this machine
)
NO_GPU = ("--disable-gpu",)
WITH_GPU = ("--enable-unsafe-webgpu", "--enable-features=Vulkan", "--ignore-gpu-blocklist")


def find_browser(given: str | None = None) -> str:
    """Return the path of a Chromium. Raises EdgeSkipError if there is none, or `given` is not a program."""
    for name in NAMES if given is None else (given,):
        found = shutil.which(name)
        if found is not None:
            return found
    if given is not None:
        raise EdgeSkipError(f"{given} is not a program; give the path of a Chromium or Chrome")
    raise EdgeSkipError(f"no browser is installed ({', '.join(NAMES[:3])} …): install Chromium, or give its path")


def version_of(browser: str) -> str:
    """Return what it calls itself, e.g. "Chromium 156.0.8078.79". Raises EdgeSkipError if it does not answer."""
    try:
        done = subprocess.run([browser, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EdgeSkipError(f"{browser} does not start ({error}): give the path of another browser") from None
    words = done.stdout.split()
    if done.returncode or not words:
        raise EdgeSkipError(f"{browser} does not report its version; give the path of a Chromium or Chrome")
    return " ".join(words[:2])


class Browser:
    """One running browser, from the constructor to `close`."""

    def __init__(self, program: str, profile: Path, url: str, *, flags: Sequence[str] = NO_GPU) -> None:
        try:
            import psutil
        except ImportError:
            raise MissingExtraError("psutil", "bench") from None
        self._psutil: Any = psutil
        for left in profile.glob("Singleton*"):  # of one that was killed
            left.unlink(missing_ok=True)
        root = ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()  # root has no other way
        command = [program, *_FLAGS, *flags, *root, f"--user-data-dir={profile}", url]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise EdgeSkipError(f"{program} does not start ({error}): give the path of another browser") from None

    @property
    def group(self) -> int:
        """The process group that all its processes are in."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def code(self) -> int | None:
        """Its exit code as `subprocess` has it; None while it is alive."""
        return self._process.poll()

    def memory(self) -> int:
        """Return the bytes of all its processes now; what they share counts once if the system reports it."""
        total = 0
        for process in self._processes():
            with suppress(self._psutil.Error, OSError):
                found = process.memory_full_info() if self._psutil.LINUX else process.memory_info()
                total += int(getattr(found, "pss", 0) or found.rss)
        return total

    def close(self) -> None:
        """End it and every process it started; may be called twice."""
        started = self._processes()
        self._signal(signal.SIGCONT)  # a stopped process hears nothing
        if self.alive:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_TERM_S)
        self._signal(signal.SIGKILL)
        for process in started:
            with suppress(self._psutil.Error, OSError):
                process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_TERM_S)
        deadline = time.monotonic() + _TERM_S  # the profile may be deleted afterwards: wait until nobody writes there
        while any(self._runs(process) for process in started) and time.monotonic() < deadline:
            time.sleep(0.02)

    def _runs(self, process: Any) -> bool:
        try:
            return bool(process.is_running() and process.status() != self._psutil.STATUS_ZOMBIE)
        except self._psutil.Error:
            return False

    def _processes(self) -> list[Any]:
        try:
            first = self._psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        except self._psutil.Error:
            return []

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.group, number)


PERIOD_S = 0.02


def describe_throttle(factor: float) -> str:
    """Return the text for `Device.emulated`."""
    return f"{factor:g}x CPU throttling (stopped {100 * (1 - 1 / factor):.0f} % of every {1e3 * PERIOD_S:.0f} ms)"


class Throttle:
    """From the constructor to `close`."""

    def __init__(self, group: int, factor: float) -> None:
        if not factor > 1:
            raise EdgeSkipError(f"a throttling factor of {factor:g} must be greater than 1, e.g. 4")
        if not hasattr(signal, "SIGSTOP"):
            raise EdgeSkipError("this system cannot stop processes for a while: leave throttling out")
        self._group, self._factor = group, factor
        self._ran = self._total = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._alternate, name="throttle", daemon=True)
        self._thread.start()

    @property
    def achieved(self) -> float:
        """Wall-clock time over running time so far: the factor, as far as the clock allows."""
        return self._total / self._ran if self._ran else 1.0

    def close(self) -> None:
        """Let the processes run freely again."""
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
