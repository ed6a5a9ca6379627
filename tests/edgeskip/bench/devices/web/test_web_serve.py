"""Serving phones: who is done, who is gone, certificates, the QR code. Oracles: by hand, segno's own matrix."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from pathlib import Path

import aiohttp
import pytest
from served_bench import LIB, Bench, sample_of

from edgeskip.bench.devices.web.artifact import WebArtifact
from edgeskip.bench.devices.web.certificates import addresses, own_certificate, self_signed
from edgeskip.bench.devices.web.serve import DeviceRecord, qr_code, serve
from edgeskip.bench.devices.web.serve_config import ServeOptions
from edgeskip.bench.devices.web.server import RejectedRecordError, WebServer
from edgeskip.bench.schema import Device, RoundFailure
from edgeskip.core.errors import EdgeSkipError


def test_a_device_that_is_gone_ends_with_failures(bench: Bench) -> None:
    """By hand: one of two rounds was measured; the other, and both of a device that never spoke, are given up."""
    one, two = bench.register(), bench.register()
    assert bench.post("results", sample_of(one))[0] == 200
    bench.phones.give_up(60)
    assert bench.phones.finished == 0
    bench.server.call_soon(lambda: bench.phones.give_up(0))
    for _ in range(100):
        if bench.phones.finished == 2:
            break
        time.sleep(0.02)
    failures = [record for record in bench.kept if isinstance(record, RoundFailure)]
    assert [(record.cell.device, record.round) for record in failures] == [(one, 1), (two, 0), (two, 1)]
    assert "said nothing for 0 s" in failures[0].message


def test_a_name_cannot_command_the_terminal(bench: Bench) -> None:
    heard: list[str] = []
    bench.phones._note = heard.append
    device = {"kind": "device", "id": "new", "type": "browser", "name": "p\x1b]0;x\x07\nq", "facts": {}}
    assert bench.post("device", device)[0] == 200
    (line,) = heard
    assert line.isprintable()


def test_a_page_lost_twice_in_the_middle_fails_its_request(bench: Bench) -> None:
    device = bench.register()
    for expected in ([0, 1], [0, 1], [1]):
        jobs = json.loads(bench.get(f"work?device={device}")[2])["jobs"]
        assert [job["request"]["round"] for job in jobs] == expected
        assert bench.post(f"progress?device={device}", {"message": "begins"})[0] == 200
    failures = [record for record in bench.kept if isinstance(record, RoundFailure)]
    assert [(failure.round, "closed in the middle" in failure.message) for failure in failures] == [(0, True)]
    with pytest.raises(RejectedRecordError):
        bench.phones.progress("nobody", "x")


def test_what_a_phone_gives_is_kept(bench: Bench) -> None:
    """The page registers once more, under the id it was given; the better figure of two visits counts."""
    device = bench.register()
    for read, done, provider, expected in ((3e9, 5e9, "web", 200), (2e9, 6e9, "web", 200), (1e9, 1e9, "cpu", 400)):
        roofline = {"provider": provider, "threads": 2, "bytes_per_s": read, "flops_per_s": done, "how": "h"}
        record = {"kind": "device", "id": device, "type": "browser", "name": "A phone", "rooflines": [roofline]}
        assert bench.post("device", record)[0] == expected
    last = bench.kept[-1]
    assert isinstance(last, Device)
    assert (last.id, last.name) == (device, "A phone")
    assert [(r.provider, r.threads, r.bytes_per_s, r.flops_per_s) for r in last.rooflines] == [("web", 2, 3e9, 6e9)]
    assert len(bench.kept) == 3
    again = {"kind": "device", "id": device, "type": "browser", "name": "A phone"}
    assert bench.post("device", again)[0] == 200
    assert len(bench.kept) == 3  # nothing new
    other = json.loads(bench.post("device", {**again, "name": "Another"})[1])["id"]
    assert other != device  # the address was sent on to it


def test_https_with_a_certificate_of_its_own(
    artifact: WebArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESKIP_CACHE", str(tmp_path))
    certificate = self_signed(["127.0.0.1", "localhost"])
    assert self_signed(["localhost", "127.0.0.1"]) == certificate  # kept
    assert certificate.key.stat().st_mode & 0o77 == 0
    bench = Bench(artifact)
    bench.server.close()
    server = WebServer(bench.phones, {}, LIB, tls=certificate.context())
    server.start()
    try:
        trusting = ssl.create_default_context(cafile=str(certificate.certificate))
        printed = aiohttp.Fingerprint(bytes.fromhex(certificate.fingerprint.replace(":", "")))

        async def execute() -> list[int]:
            async with aiohttp.ClientSession() as client:
                return [(await client.get(server.url(), ssl=check)).status for check in (trusting, printed)]

        assert asyncio.run(execute()) == [200, 200]
    finally:
        server.close()
    assert own_certificate(certificate.certificate, certificate.key).fingerprint == certificate.fingerprint


def test_a_bad_certificate_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("no certificate", encoding="utf-8")
    with pytest.raises(EdgeSkipError, match=r"c\.pem is not a PEM"):
        own_certificate(tmp_path / "c.pem", tmp_path / "k.pem")


def test_serving_ends_when_the_devices_are_done(artifact: WebArtifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve` itself, with a client in the place of a phone that acts as soon as the address is printed."""
    import threading

    from edgeskip.bench.devices.web import serve as serve_module

    monkeypatch.setattr(serve_module, "web_packages", lambda folder: LIB)
    kept: list[DeviceRecord] = []
    lines: list[str] = []
    bench = Bench(artifact)
    bench.server.close()

    def phone(url: str) -> None:
        async def execute() -> None:
            async with aiohttp.ClientSession(url) as client:
                device = {"kind": "device", "id": "new", "type": "browser", "name": "B", "facts": {}}
                async with client.post("device", json=device) as response:
                    name = (await response.json())["id"]
                for number in range(2):
                    async with client.post("results", json=sample_of(name, number)) as response:
                        assert response.status == 200

        asyncio.run(execute())

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("open this page"):
            url = line.split("\n\n")[1].strip()
            threading.Thread(target=phone, args=(url,), daemon=True).start()

    assert serve([artifact.path], bench.requests_for, kept.append, ServeOptions(devices=1), note=say) == 1
    assert [record.kind for record in kept] == ["device", "sample", "sample"]
    assert any("Only this machine reaches" in line for line in lines)
    assert any("█" in line for line in lines)  # the QR code


def test_other_hosts_get_https_unless_plain_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeskip.bench.devices.web.serve import _certificate

    monkeypatch.setenv("EDGESKIP_CACHE", str(tmp_path))
    assert _certificate(ServeOptions(), ["127.0.0.1"]) is None
    assert _certificate(ServeOptions("0.0.0.0", plain_http=True), ["192.0.2.7"]) is None
    made = _certificate(ServeOptions("0.0.0.0"), ["192.0.2.7"])
    assert made is not None
    assert made.fingerprint.count(":") == 31
    with pytest.raises(EdgeSkipError, match="needs its key"):
        _certificate(ServeOptions("0.0.0.0", certificate=tmp_path / "c.pem"), [])
    found = addresses()
    assert len(found) == len(set(found))
    assert all(address.count(".") == 3 for address in found)


def test_the_qr_code_holds_the_address() -> None:
    """Oracle: segno's own matrix of the same address, two rows a line: █ both dark, ▀ and ▄ one (light on dark)."""
    import segno

    url = "http://192.168.1.20:8080/abcdefghijklmnop/"
    rows = [list(row) for row in segno.make(url, error="l", micro=False).matrix_iter(border=2)]
    if len(rows) % 2:
        rows.append([0] * len(rows[0]))
    told = [
        "".join(" ▄▀█"[3 - 2 * a - b] for a, b in zip(*pair, strict=True))
        for pair in zip(rows[::2], rows[1::2], strict=True)
    ]
    code = qr_code(url).split("\n")
    assert [line.rstrip() for line in code][1:-1] == [line.rstrip() for line in told][1:-1]
    assert qr_code(url) != qr_code(url.replace("a", "b"))
