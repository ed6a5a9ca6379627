"""A device of the benchmark that is a browser on this machine: each round in a Chromium started for it alone."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from edgeskip.bench.devices.web.artifact import WebArtifact
from edgeskip.bench.devices.web.browser import (
    NO_GPU,
    WITH_GPU,
    Browser,
    Throttle,
    describe_throttle,
    find_browser,
    version_of,
)
from edgeskip.bench.devices.web.packages import ONNXRUNTIME_WEB, web_packages
from edgeskip.bench.devices.web.server import RejectedRecordError, WebServer
from edgeskip.bench.grid import PAGE_PROVIDERS
from edgeskip.bench.runner.launcher import StatusCallback
from edgeskip.bench.runner.request import RoundRequest
from edgeskip.bench.runner.roofline import merge_rooflines
from edgeskip.bench.runner.system_monitor import SystemMonitor
from edgeskip.bench.schema import Device, Roofline, RoundFailure, RoundResult
from edgeskip.core.child_exit import how_it_ended
from edgeskip.core.errors import EdgeSkipError

ROUND_TIMEOUT_S = 3600.0
START_TIMEOUT_S = 60.0  # to the page's first sign of life
SILENCE_S = 90.0  # the page says something every 3 s; a crashed one says nothing
_LOOK_S = 0.25
_MEMORY_S = 3.0


class BrowserLauncher:
    """A `Launcher` over a headless Chromium; the page it opens runs exactly one request.

    `throttle` makes the processor so many times slower, as in a phone; `draft_tokens` fixes what a round drafts, else
    the page drafts as much as pays. `cells` are the providers and numbers of threads whose roofline is wanted, measured
    at full speed and, but for a GPU, divided by `throttle`: the shortest passes fit between two stops. `packages` is a
    folder of the page's npm archives, for a machine without npm. Raises EdgeSkipError if there is no browser, it does
    not start, or the packages cannot be had.
    """

    def __init__(
        self,
        cells: Sequence[tuple[str, int]] = (),
        *,
        browser: str | None = None,
        throttle: float | None = None,
        packages: Path | None = None,
        device_id: str | None = None,
        timeout_s: float = ROUND_TIMEOUT_S,
        gpu_flags: Sequence[str] = WITH_GPU,
        draft_tokens: int | None = None,
    ) -> None:
        self._cells = tuple(dict.fromkeys(cells))
        self._query = "" if draft_tokens is None else f"&depth={draft_tokens}"
        self._program = find_browser(browser)
        self._throttle, self._timeout_s, self._gpu_flags = throttle, timeout_s, tuple(gpu_flags)
        version = version_of(self._program)
        slow = "" if throttle is None else f"-{throttle:g}x"
        self._handler = _SingleRoundHandler(device_id or f"chromium{slow}")
        self._server = WebServer(self._handler, {}, web_packages(packages))
        # Downloads stay from round to round: one profile for all, and the server keeps its port.
        self._profile = Path(tempfile.mkdtemp(prefix="edgeskip-browser-"))
        try:
            self._server.start()
            self._device = merge_rooflines(self._probe(version), self._rooflines())
        except BaseException:
            self.close()
            raise

    @property
    def device(self) -> Device:
        return self._device

    def prepare(self, path: Path, progress: StatusCallback) -> str:
        """Nothing is copied: the browser fetches the files with its first round, and keeps them for the next."""
        progress(f"deriving the page's graphs of {path.name}")
        self._server.add(WebArtifact(path))
        return str(path)

    def run(self, request: RoundRequest, progress: StatusCallback) -> RoundResult:
        if request.cell.provider not in PAGE_PROVIDERS:
            raise EdgeSkipError(f"a browser has no provider {request.cell.provider}; use {' or '.join(PAGE_PROVIDERS)}")
        self._handler.begin(request, progress)
        flags = self._gpu_flags if request.cell.provider == "webgpu" else NO_GPU
        browser = Browser(self._program, self._profile, self._url, flags=flags)
        throttle = None
        peak = 0
        monitor, look = SystemMonitor(), time.monotonic()
        try:
            if self._throttle is not None:
                throttle = Throttle(browser.group, self._throttle)
            deadline = time.monotonic() + self._timeout_s
            while not self._handler.ended.wait(_LOOK_S):
                if time.monotonic() >= look:  # seldom: it reads every process' pages, on the cores that are measured
                    peak, look = max(peak, browser.memory()), time.monotonic() + _MEMORY_S
                self._check(browser, deadline)
            peak = max(peak, browser.memory())
        finally:
            if throttle is not None:
                throttle.close()
            browser.close()
        outcome = self._handler.outcome
        assert outcome is not None
        if isinstance(outcome, RoundFailure):
            raise EdgeSkipError(outcome.message)
        notes = list(outcome.notes)
        if outcome.peak_rss_bytes is None:
            notes.append("peak memory is that of all the browser's processes")
        if throttle is not None:
            notes.append(f"slowed down {throttle.achieved:.2f}x")
        # The browser's processes count as others', so how busy those were is unknown.
        conditions = monitor.conditions().model_copy(update={"others_cores": None})
        peak_bytes = outcome.peak_rss_bytes or peak or None
        return outcome.model_copy(update={"peak_rss_bytes": peak_bytes, "notes": notes, "conditions": conditions})

    def rooflines_again(self, progress: StatusCallback) -> list[Roofline]:
        return self._rooflines()

    def close(self) -> None:
        self._server.close()
        for _ in range(3):  # a process of the browser may still be writing
            with suppress(OSError):
                shutil.rmtree(self._profile)
            if not self._profile.exists():
                break
            time.sleep(0.2)

    @property
    def _url(self) -> str:
        return f"{self._server.url()}?auto=1&device={self._handler.id}{self._query}"

    def _check(self, browser: Browser, deadline: float) -> None:
        """Raise EdgeSkipError if waiting on is useless."""
        if self._server.defect is not None:
            raise EdgeSkipError(f"the web server failed ({self._server.defect})") from self._server.defect
        if not browser.alive:
            raise EdgeSkipError(f"{self._program} ended in the middle: it {how_it_ended(browser.code)}")
        silent = time.monotonic() - self._handler.heard
        patience = (SILENCE_S if self._handler.registered else START_TIMEOUT_S) * max(1.0, self._throttle or 1.0)
        if silent > patience:
            raise EdgeSkipError(f"the page has been silent for {silent:.0f} s: it hangs, or the browser is too busy")
        if time.monotonic() > deadline:
            raise EdgeSkipError("the round was not over in time: give fewer or shorter tests")

    def _probe(self, version: str) -> Device:
        """Open the page once, with nothing to do, for what the browser reports about itself."""
        from edgeskip.core.machine import this_machine

        return self._visit().model_copy(
            update={
                "name": f"{this_machine().processor}, {version} headless",
                "versions": {"browser": version, ONNXRUNTIME_WEB.name: ONNXRUNTIME_WEB.version},
                "emulated": None if self._throttle is None else describe_throttle(self._throttle),
            }
        )

    def _rooflines(self) -> list[Roofline]:
        found = []
        for provider, threads in self._cells:
            gpu = provider == "webgpu"
            flags = self._gpu_flags if gpu else NO_GPU
            try:
                (roofline,) = self._visit(f"&roofline={provider}:{threads}", flags).rooflines
            except EdgeSkipError as error:  # the rounds will show whether anything runs there
                roofline = Roofline(
                    provider=provider, threads=threads, bytes_per_s=None, flops_per_s=None, how=str(error)[:300]
                )
            if self._throttle is not None and not gpu:
                roofline = _throttled(roofline, self._throttle)
            found.append(roofline)
        return found

    def _visit(self, query: str = "", flags: Sequence[str] = NO_GPU) -> Device:
        """Return what the page reports about the device, opened with no round to run."""
        self._handler.expect(None)
        browser = Browser(self._program, self._profile, self._url + query, flags=tuple(flags))
        deadline = time.monotonic() + START_TIMEOUT_S
        try:
            while self._handler.device is None:
                self._check(browser, deadline)
                time.sleep(0.05)
        finally:
            browser.close()
        return self._handler.device


def _throttled(roofline: Roofline, factor: float) -> Roofline:
    divided = {
        name: None if value is None else value / factor
        for name, value in (("bytes_per_s", roofline.bytes_per_s), ("flops_per_s", roofline.flops_per_s))
    }
    return roofline.model_copy(update={**divided, "how": f"{roofline.how}; divided by {factor:g}, as it is throttled"})


class _SingleRoundHandler:
    """A `ResultHandler` for one request of one device: written by the server's thread, read by the launcher's."""

    def __init__(self, identifier: str) -> None:
        self.id = identifier
        self.ended = threading.Event()
        self.expect(None)

    def expect(self, request: RoundRequest | None) -> None:
        self._request = request
        self._report: StatusCallback = _ignore
        self.heard = time.monotonic()
        self.registered = False
        self.device: Device | None = None
        self.outcome: RoundResult | RoundFailure | None = None
        self.ended.clear()

    def begin(self, request: RoundRequest, progress: StatusCallback) -> None:
        self.expect(request)
        self._report = progress

    def register(self, device: Device) -> str:
        self.heard, self.registered = time.monotonic(), True
        self.device = device.model_copy(update={"id": self.id})
        return self.id

    def work(self, device: str) -> list[RoundRequest]:
        self.heard = time.monotonic()
        return [] if self._request is None else [self._request]

    def progress(self, device: str, message: str) -> None:
        self.heard = time.monotonic()
        self._report(message)

    def finish(self, record: RoundResult | RoundFailure) -> None:
        request = self._request
        if request is None or (record.cell, record.round) != (request.cell, request.round) or self.ended.is_set():
            raise RejectedRecordError("nobody asked for this cell and round")
        self.outcome = record
        self.ended.set()


def _ignore(message: str) -> None:
    return None
