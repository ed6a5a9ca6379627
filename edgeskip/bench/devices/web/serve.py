"""Benchmarks on whatever opens the page: says where it is, keeps what phones send until they are done or Ctrl-C."""

from __future__ import annotations

import io
import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from edgeskip.bench.analysis.formatting import sanitize
from edgeskip.bench.config import BenchConfig
from edgeskip.bench.devices.web.artifact import WebArtifact
from edgeskip.bench.devices.web.certificates import Certificate, addresses, is_loopback, own_certificate, self_signed
from edgeskip.bench.devices.web.packages import web_packages
from edgeskip.bench.devices.web.serve_config import ServeOptions, requests_for, servable_targets
from edgeskip.bench.devices.web.server import RejectedRecordError, WebServer
from edgeskip.bench.runner.request import RoundRequest
from edgeskip.bench.runner.roofline import merge_rooflines
from edgeskip.bench.runner.run_file import RunLog
from edgeskip.bench.schema import Device, Roofline, RoundFailure, RoundResult, timestamp
from edgeskip.core.errors import EdgeSkipError, MissingExtraError

DeviceRecord = Device | RoundResult | RoundFailure
ANY_ADDRESS = "0.0.0.0"
SILENCE_S = 900.0
_ATTEMPTS = 2  # times a request is given out whose page was lost in the middle


def serve_phones(config: BenchConfig, options: ServeOptions, log: RunLog, note: Callable[[str], None]) -> int:
    """Serve until Ctrl-C, or until as many devices as wanted are done; return how many are. `log` gets every record."""
    paths = [Path(target.path) for target in servable_targets(config)]
    return serve(paths, lambda device: requests_for(config, device), log.add, options, note=note)


def serve(
    paths: Sequence[Path],
    requests_for: Callable[[Device], Sequence[RoundRequest]],
    keep: Callable[[DeviceRecord], None],
    options: ServeOptions,
    *,
    note: Callable[[str], None],
) -> int:
    """Serve the page until Ctrl-C, or until `options.devices` of them have finished.

    Args:
        paths: Artifact folders that are served.
        requests_for: Returns the requests of a device, from its id and facts (cores, WebGPU); their paths are of
            `paths`.
        keep: Called with each record at once; returns when it is safe, and only then the phone forgets it. It is called
            in the server's thread, one call at a time. What it raises ends serving and is raised here.
        options: Where and how the page is served.
        note: Called with lines for the user: where the page is, and what devices have done.

    Returns:
        How many devices have finished.

    Raises:
        EdgeSkipError: If the port is taken, an artifact is damaged or the page's packages cannot be had.
    """
    artifacts = {str(path): WebArtifact(path) for path in dict.fromkeys(paths)}
    files = web_packages(options.packages)
    handler = PhoneHandler(requests_for, keep, note)
    shown = addresses() if options.host == ANY_ADDRESS else [options.host]
    certificate = _certificate(options, shown)
    tls = None if certificate is None else certificate.context()
    server = WebServer(handler, artifacts, files, host=options.host, port=options.port, tls=tls)
    server.start()
    try:
        _announce(server, shown or ["127.0.0.1"], certificate, loopback=is_loopback(options.host), note=note)
        with suppress(KeyboardInterrupt):
            while options.devices is None or handler.finished < options.devices:
                handler.changed.wait(0.5)
                handler.changed.clear()
                if options.devices is not None:  # somebody waits for the end
                    server.call_soon(lambda: handler.give_up(SILENCE_S))
                if server.defect is not None:
                    raise server.defect
    finally:
        server.close()
    if server.defect is not None:
        raise server.defect
    return handler.finished


def qr_code(url: str) -> str:
    """Return the code in half-block characters for a terminal."""
    try:
        import segno
    except ImportError:
        raise MissingExtraError("segno", "bench") from None
    out = io.StringIO()
    segno.make(url, error="l", micro=False).terminal(out, border=2, compact=True)
    return out.getvalue().rstrip("\n")


def _certificate(options: ServeOptions, shown: Sequence[str]) -> Certificate | None:
    if (options.certificate is None) != (options.key is None):
        raise EdgeSkipError("a certificate needs its key; give both files or neither")
    if options.certificate is not None and options.key is not None:
        return own_certificate(options.certificate, options.key)
    if options.plain_http or is_loopback(options.host):
        return None
    return self_signed([*shown, "localhost", "127.0.0.1"])


def _announce(
    server: WebServer,
    shown: Sequence[str],
    certificate: Certificate | None,
    *,
    loopback: bool,
    note: Callable[[str], None],
) -> None:
    url = server.url(shown[0])
    note(f"open this page on the device to be measured (it holds a one-time token):\n\n  {url}\n")
    for other in shown[1:]:
        note(f"  or {server.url(other)}")
    note(qr_code(url))
    if certificate is not None:
        note("The browser warns of the certificate, which is this machine's own unless you gave one; its sha256 is")
        note(certificate.fingerprint)
    elif not loopback:
        note("Plain http: browsers give the page one thread, no WebGPU, and keep no download.")
    if loopback:
        note("Only this machine reaches that address: give  --host 0.0.0.0  for phones on the same network.")
    note("Ctrl-C ends.")


@dataclass
class _Phone:
    """A device, its requests, and which of them (by index) are done, running, or were begun how often."""

    device: Device
    requests: list[RoundRequest]
    heard: float = field(default_factory=time.monotonic)
    begun: dict[int, int] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    running: int | None = None

    @property
    def left(self) -> list[int]:
        return [index for index in range(len(self.requests)) if index not in self.done]

    def find(self, record: RoundResult | RoundFailure) -> list[int]:
        """Return the requests that a record may answer."""
        wanted = (record.cell, record.round)
        return [at for at, request in enumerate(self.requests) if (request.cell, request.round) == wanted]

    def failure(self, index: int, message: str) -> RoundFailure:
        request = self.requests[index]
        return RoundFailure(cell=request.cell, round=request.round, created=timestamp(), message=message)


class PhoneHandler:
    """A `ResultHandler` for any number of devices, each with its own requests, done in their order.

    A page that is opened again continues with what is left; a request during which the page was lost twice is a
    failure: phones close pages that take too much memory.
    """

    def __init__(
        self,
        requests_for: Callable[[Device], Sequence[RoundRequest]],
        keep: Callable[[DeviceRecord], None],
        note: Callable[[str], None],
    ) -> None:
        self._requests_for, self._keep, self._note = requests_for, keep, note
        self._phones: dict[str, _Phone] = {}
        self.changed = threading.Event()

    @property
    def finished(self) -> int:
        """How many devices have done, or failed, everything they were asked for."""
        return sum(len(phone.done) == len(phone.requests) for phone in self._phones.values())

    def give_up(self, silence_s: float) -> None:
        """Count as failed what devices that were silent for so long have not done: the page reports every 3 s."""
        message = f"the device said nothing for {silence_s:.0f} s: was the page closed, or the network lost?"
        for phone in list(self._phones.values()):
            if time.monotonic() - phone.heard >= silence_s:
                for index in phone.left:
                    self._end(phone, phone.failure(index, message))

    def register(self, device: Device) -> str:
        if device.type != "browser":
            raise RejectedRecordError("this is not a browser")
        known = self._phones.get(device.id)
        if known is not None and known.device.name == device.name:  # another phone may open an address that was sent on
            self._add_rooflines(known, device.rooflines)
            return device.id
        # The id is ours: what a page calls itself must not collide with another.
        slug = re.sub(r"[^a-z0-9]+", "-", device.name.lower()).strip("-")[:40] or "browser"
        device = device.model_copy(update={"id": f"{slug}-{secrets.token_hex(2)}", "rooflines": [], "emulated": None})
        requests = list(self._requests_for(device))
        self._keep(device)
        self._phones[device.id] = _Phone(device, requests)
        self._note(f"{device.id}: {sanitize(device.name, 100)}, {len(requests)} measurements")
        self.changed.set()
        return device.id

    def work(self, device: str) -> list[RoundRequest]:
        phone = self._phone(device)
        if phone.running is not None:  # the page was opened again in the middle of this one
            index, phone.running = phone.running, None
            if phone.begun.get(index, 0) >= _ATTEMPTS:
                message = "the page was closed in the middle, twice: keep it in front, or measure a smaller model"
                self._end(phone, phone.failure(index, message))
        return [phone.requests[index] for index in phone.left]

    def progress(self, device: str, message: str) -> None:
        phone = self._phone(device)
        if phone.running is None and phone.left:
            phone.running = phone.left[0]
            phone.begun[phone.running] = phone.begun.get(phone.running, 0) + 1

    def finish(self, record: RoundResult | RoundFailure) -> None:
        self._end(self._phone(record.cell.device), record)

    def _add_rooflines(self, phone: _Phone, rooflines: Sequence[Roofline]) -> None:
        """Merge what the page measures before its first round, and again if it continues after it was closed."""
        cells = {(request.cell.provider, request.cell.threads) for request in phone.requests}
        if not {(one.provider, one.threads) for one in rooflines} <= cells:
            raise RejectedRecordError("nobody asked for the roofline of such a cell")
        device = merge_rooflines(phone.device, rooflines)
        if device != phone.device:  # if nothing is new, nothing is written
            phone.device = device
            self._keep(device)

    def _phone(self, device: str) -> _Phone:
        if device not in self._phones:
            raise RejectedRecordError("this device is unknown: open the page again")
        self._phones[device].heard = time.monotonic()
        return self._phones[device]

    def _end(self, phone: _Phone, record: RoundResult | RoundFailure) -> None:
        asked = phone.find(record)
        if not asked:
            raise RejectedRecordError("nobody asked for this cell and round")
        index = next((at for at in asked if at not in phone.done), None)
        if index is None:
            return  # it came before, and the page was not told so
        if isinstance(record, RoundResult) and not _matches_request(record, phone.requests[index]):
            raise RejectedRecordError("these are other tests or prompts than those asked for")
        self._keep(record)
        phone.done.add(index)
        phone.running = None
        what = "measured" if isinstance(record, RoundResult) else f"failed, {sanitize(record.message)}"
        self._note(f"{phone.device.id}: {record.cell.target} {record.cell.strategy} round {record.round} {what}")
        self.changed.set()


def _matches_request(sample: RoundResult, request: RoundRequest) -> bool:
    """Return whether there is a figure for each test and prompt of the request, and no others."""
    tests, found = ([(test.test, test.tokens, test.depth) for test in some] for some in (request.tests, sample.tests))
    return found == tests and [one.prompt for one in sample.answers] == [prompt.name for prompt in request.prompts]
