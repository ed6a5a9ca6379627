"""Benchmarks on whatever opens the page: prints where it is, takes what phones send until they are done or Ctrl-C."""

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
from edgeskip.bench.devices.web.artifact import artifacts_of
from edgeskip.bench.devices.web.certificates import Certificate, addresses, is_loopback, own_certificate, self_signed
from edgeskip.bench.devices.web.handler import RejectedRecordError
from edgeskip.bench.devices.web.packages import web_packages
from edgeskip.bench.devices.web.server import WebServer
from edgeskip.bench.runner.request import RoundRequest
from edgeskip.bench.runner.roofline import merge_rooflines
from edgeskip.bench.schema import Device, Roofline, RoundFailure, RoundResult
from edgeskip.core.errors import EdgeSkipError, MissingExtraError

DeviceRecord = Device | RoundResult | RoundFailure
ANY_ADDRESS = ("0.0.0.0",)
SILENCE_S = 900.0
_TRIES = 2  # times a request is given out whose page was gone in the middle


@dataclass(frozen=True)
class ServeSecurity:
    """How the page is reached from other machines; on this one plain http is secure enough.

    `plain` serves http all the same, and browsers then give the page one thread and no WebGPU. `certificate` and `key`
    are the user's own PEM files; None = a self-signed certificate, which a phone warns of once.
    """

    plain: bool = False
    certificate: Path | None = None
    key: Path | None = None


def serve(
    paths: Sequence[Path],
    requests_for: Callable[[Device], Sequence[RoundRequest]],
    keep: Callable[[DeviceRecord], None],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    security: ServeSecurity | None = None,
    packages: Path | None = None,
    devices: int | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Serves the page until Ctrl-C, or until `devices` of them have finished; how many have.

    `requests_for` makes the requests of a device, whose id and facts (cores, WebGPU) it looks at; their paths are of
    `paths`. `keep` is handed each record at once and returns when it is safe: only then the phone forgets it. It is
    called in the server's thread, one call at a time. EdgeSkipError where the port is taken, an artifact is damaged or
    the page's packages cannot be had; what `keep` raises ends serving and is raised here.
    """
    artifacts = artifacts_of(paths)
    files = web_packages(packages)
    desk = PhoneHandler(requests_for, keep, say)
    shown = addresses() if host in ANY_ADDRESS else [host]
    certificate = _certificate(host, shown, security or ServeSecurity())
    tls = None if certificate is None else certificate.context()
    server = WebServer(desk, artifacts, files, host=host, port=port, tls=tls)
    server.start()
    try:
        _announce(server, shown or ["127.0.0.1"], certificate, loopback=is_loopback(host), say=say)
        with suppress(KeyboardInterrupt):
            while devices is None or desk.finished < devices:
                desk.changed.wait(0.5)
                desk.changed.clear()
                if devices is not None:  # somebody waits for the end
                    server.call_soon(lambda: desk.give_up(SILENCE_S))
                if server.defect is not None:
                    raise server.defect
    finally:
        server.close()
    if server.defect is not None:
        raise server.defect
    return desk.finished


def qr_code(url: str) -> str:
    """Half-block characters for a terminal."""
    try:
        import segno
    except ImportError:
        raise MissingExtraError("segno", "bench") from None
    out = io.StringIO()
    segno.make(url, error="l", micro=False).terminal(out, border=2, compact=True)
    return out.getvalue().rstrip("\n")


def _certificate(host: str, shown: Sequence[str], security: ServeSecurity) -> Certificate | None:
    if (security.certificate is None) != (security.key is None):
        raise EdgeSkipError("a certificate needs its key: give both files or neither")
    if security.certificate is not None and security.key is not None:
        return own_certificate(security.certificate, security.key)
    if security.plain or is_loopback(host):
        return None
    return self_signed([*shown, "localhost", "127.0.0.1"])


def _announce(
    server: WebServer,
    shown: Sequence[str],
    certificate: Certificate | None,
    *,
    loopback: bool,
    say: Callable[[str], None],
) -> None:
    url = server.url(shown[0])
    say(f"open this page on the device to be measured (it holds a one-time token):\n\n  {url}\n")
    for other in shown[1:]:
        say(f"  or {server.url(other)}")
    say(qr_code(url))
    if certificate is not None:
        say("The browser warns of the certificate, which is this machine's own unless you gave one; its sha256 is")
        say(certificate.fingerprint)
    elif not loopback:
        say("Plain http: browsers give the page one thread, no WebGPU, and keep no download.")
    if loopback:
        say("Only this machine reaches that address: give  --host 0.0.0.0  for phones on the same network.")
    say("Ctrl-C ends.")


@dataclass
class _Phone:
    device: Device
    requests: list[RoundRequest]
    heard: float = field(default_factory=time.monotonic)
    given_out: dict[int, int] = field(default_factory=dict)  # by index in `requests`: how often it was begun
    done: set[int] = field(default_factory=set)
    running: int | None = None


class PhoneHandler:
    """A `Desk` for any number of devices, each with requests of its own, done in their order.

    A page that is opened again goes on with what is left; a request in whose middle the page was lost twice is a
    failure: phones close pages that take too much memory.
    """

    def __init__(
        self,
        requests_for: Callable[[Device], Sequence[RoundRequest]],
        keep: Callable[[DeviceRecord], None],
        say: Callable[[str], None],
    ) -> None:
        self._requests_for, self._keep, self._say = requests_for, keep, say
        self._phones: dict[str, _Phone] = {}
        self.changed = threading.Event()

    @property
    def finished(self) -> int:
        """Devices that have done, or failed, everything asked of them."""
        return sum(len(phone.done) == len(phone.requests) for phone in self._phones.values())

    def give_up(self, silence_s: float) -> None:
        """What devices that said nothing for so long have not done counts as failed: the page speaks every 3 s."""
        for phone in list(self._phones.values()):
            if time.monotonic() - phone.heard < silence_s:
                continue
            for index in [at for at in range(len(phone.requests)) if at not in phone.done]:
                request = phone.requests[index]
                message = f"the device said nothing for {silence_s:.0f} s: was the page closed, or the network lost?"
                self._end(phone, RoundFailure(cell=request.cell, round=request.round, created=_now(), message=message))

    def register(self, device: Device) -> str:
        if device.type != "browser":
            raise RejectedRecordError("this is no browser")
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
        self._say(f"{device.id}: {sanitize(device.name, 100)}, {len(requests)} measurements")
        self.changed.set()
        return device.id

    def work(self, device: str) -> list[RoundRequest]:
        phone = self._phone(device)
        if phone.running is not None:  # the page was opened again in the middle of this one
            index, phone.running = phone.running, None
            if phone.given_out.get(index, 0) >= _TRIES:
                request = phone.requests[index]
                message = "the page was closed in the middle, twice: keep it in front, or measure a smaller model"
                self._end(phone, RoundFailure(cell=request.cell, round=request.round, created=_now(), message=message))
        return [request for index, request in enumerate(phone.requests) if index not in phone.done]

    def progress(self, device: str, message: str) -> None:
        phone = self._phone(device)
        left = [index for index in range(len(phone.requests)) if index not in phone.done]
        if phone.running is None and left:
            phone.running = left[0]
            phone.given_out[left[0]] = phone.given_out.get(left[0], 0) + 1

    def sample(self, device: str, sample: RoundResult) -> None:
        self._end(self._phone(device), sample)

    def failure(self, device: str, failure: RoundFailure) -> None:
        self._end(self._phone(device), failure)

    def _add_rooflines(self, phone: _Phone, rooflines: Sequence[Roofline]) -> None:
        """The page measures them before its first round, and again where it goes on after it was closed."""
        cells = {(request.cell.provider, request.cell.threads) for request in phone.requests}
        if not {(one.provider, one.threads) for one in rooflines} <= cells:
            raise RejectedRecordError("nobody asked for the roofline of such a cell")
        device = merge_rooflines(phone.device, rooflines)
        if device != phone.device:  # what says nothing new is not written down again
            phone.device = device
            self._keep(device)

    def _phone(self, device: str) -> _Phone:
        if device not in self._phones:
            raise RejectedRecordError("this device is unknown: open the page again")
        self._phones[device].heard = time.monotonic()
        return self._phones[device]

    def _end(self, phone: _Phone, record: RoundResult | RoundFailure) -> None:
        index = next(
            (
                index
                for index, request in enumerate(phone.requests)
                if (request.cell, request.round) == (record.cell, record.round) and index not in phone.done
            ),
            None,
        )
        if index is None:
            if any(
                (phone.requests[at].cell, phone.requests[at].round) == (record.cell, record.round) for at in phone.done
            ):
                return  # it came before, and the page did not hear that it did
            raise RejectedRecordError("nobody asked for this cell and round")
        if isinstance(record, RoundResult) and not _matches_request(record, phone.requests[index]):
            raise RejectedRecordError("these are other tests or prompts than those asked for")
        self._keep(record)
        phone.done.add(index)
        phone.running = None
        what = "measured" if isinstance(record, RoundResult) else f"failed, {sanitize(record.message)}"
        self._say(f"{phone.device.id}: {record.cell.target} {record.cell.strategy} round {record.round} {what}")
        self.changed.set()


def _matches_request(sample: RoundResult, request: RoundRequest) -> bool:
    """Whether it has a figure for each test and prompt that was asked for, and no others."""
    tests = [(test.test, test.tokens, test.depth) for test in request.tests]
    found = [(test.test, test.tokens, test.depth) for test in sample.tests]
    return found == tests and [answer.prompt for answer in sample.answers] == [
        prompt.name for prompt in request.prompts
    ]


def _now() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat(timespec="seconds")
