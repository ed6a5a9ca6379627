"""The web server, with aiohttp's client and bare sockets. Oracle: the files' bytes; status codes by hand."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from web_artifacts import web_artifact

from edgeskip.bench.record import Answer, Cell, Device, Failure, Ran, Sample
from edgeskip.bench.request import Prompt, Request
from edgeskip.bench.web import server as server_module
from edgeskip.bench.web.artifact import WebArtifact
from edgeskip.bench.web.certificates import addresses, own_certificate, self_signed
from edgeskip.bench.web.desk import RefusedError
from edgeskip.bench.web.serve import Phones, Post, Security, qr_code, serve
from edgeskip.bench.web.server import BODY_LIMIT, WebServer
from edgeskip.errors import EdgeSkipError

LIB = {"a.mjs": b"export default 1;", "b.wasm": b"\0asm"}


@pytest.fixture(scope="module")
def artifact(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> WebArtifact:
    return WebArtifact(web_artifact(tiny_llama, tmp_path_factory.mktemp("served"), "whole"))


class Bench:
    """A server with one request for each phone, and what it was handed."""

    def __init__(self, artifact: WebArtifact) -> None:
        self.artifact = artifact
        self.kept: list[Post] = []
        self.phones = Phones(self.requests_for, self.kept.append, lambda line: None)
        self.server = WebServer(self.phones, {str(artifact.path): artifact}, LIB)
        self.server.start()

    def requests_for(self, device: Device) -> list[Request]:
        cell = Cell(target="t", device=device.id, provider="web", threads=2, strategy="plain")
        prompts = [Prompt(name="p", text="The quick fox")]
        return [
            Request(path=str(self.artifact.path), cell=cell, round=n, tests=[], prompts=prompts, max_tokens=4)
            for n in range(2)
        ]

    def ask(self, talk: Callable[[aiohttp.ClientSession], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            async with aiohttp.ClientSession(self.server.url()) as client:
                return await asyncio.wait_for(talk(client), 30)

        return asyncio.run(run())

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        async def talk(client: aiohttp.ClientSession) -> tuple[int, dict[str, str], bytes]:
            async with client.get(path, headers=headers) as response:
                return response.status, dict(response.headers), await response.read()

        result: tuple[int, dict[str, str], bytes] = self.ask(talk)
        return result

    def post(self, path: str, body: bytes | str | dict[str, Any]) -> tuple[int, str]:
        async def talk(client: aiohttp.ClientSession) -> tuple[int, str]:
            data = json.dumps(body) if isinstance(body, dict) else body
            async with client.post(path, data=data) as response:
                return response.status, (await response.text()).strip()

        result: tuple[int, str] = self.ask(talk)
        return result

    def register(self, name: str = "A phone") -> str:
        device = {"kind": "device", "id": "new", "type": "browser", "name": name, "facts": {"cores": 8}}
        status, text = self.post("device", device)
        assert status == 200
        return str(json.loads(text)["id"])


@pytest.fixture
def bench(artifact: WebArtifact) -> Iterator[Bench]:
    made = Bench(artifact)
    yield made
    made.server.close()


def sample_of(device: str, number: int = 0, **changes: Any) -> dict[str, Any]:
    cell = Cell(target="t", device=device, provider="web", threads=2, strategy="plain")
    ran = Ran(engine="onnxruntime-web", version="1", provider="web", threads=2)
    answers = [
        Answer(prompt=name, prompt_tokens=1, prefill_s=0.1, ttft_s=0.1, gaps_s=[], tokens=[1], finish_reason="length")
        for name in ["p"]
    ]
    sample = Sample(cell=cell, round=number, created="now", ran=ran, load_s=0.5, answers=answers)
    return {**json.loads(sample.model_dump_json()), **changes}


def test_without_the_token_everything_is_forbidden(bench: Bench) -> None:
    base = bench.server.url()
    for path in ("/", "/work", "/wrong/", "/wrong/work", f"/{bench.server.token[:-1]}/", "/%2e%2e/", "/results"):
        for method in ("GET", "POST", "PUT"):

            async def talk(
                client: aiohttp.ClientSession, path: str = path, method: str = method
            ) -> tuple[int, str, Any]:
                async with client.request(method, path) as response:
                    return response.status, await response.text(), response.headers

            status, text, headers = bench.ask(talk)
            assert (status, text) == (403, "open the address that was printed, with its token\n"), (base, path)
            assert headers["X-Content-Type-Options"] == "nosniff"
    for target in ("//", "*", f"//{bench.server.token}/"):
        assert raw(bench, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()).split(b" ")[1] in (
            b"400",
            b"403",
            b"404",
        )


def test_the_page_is_isolated_and_loads_from_here_alone(bench: Bench) -> None:
    for path in ("", "page/page.js", "lib/a.mjs", f"files/{next(iter(bench.artifact.files))}", "missing"):
        _, headers, _ = bench.get(path)
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert "script-src 'self' 'wasm-unsafe-eval'" in headers["Content-Security-Policy"]
        assert "unsafe-inline" not in headers["Content-Security-Policy"]
    assert bench.get("")[1]["Content-Type"] == "text/html; charset=utf-8"
    assert bench.get("lib/a.mjs")[1:][0]["Content-Type"] == "text/javascript; charset=utf-8"
    assert bench.get("lib/b.wasm")[1]["Content-Type"] == "application/wasm"


@pytest.mark.parametrize(
    "path",
    ["page/../server.py", "page/..%2fserver.py", "page/%2e%2e/server.py", "files/..%2f..%2fetc%2fpasswd", "lib/%00"],
)
def test_nothing_in_a_url_is_a_path(bench: Bench, path: str) -> None:
    """The client would tidy such a path up, so it is sent as it is."""
    line = f"GET /{bench.server.token}/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = raw(bench, line.encode())
    assert answer.split(b" ")[1] in (b"400", b"403", b"404")
    assert b"import" not in answer
    assert b"root:" not in answer


def test_files_come_whole_and_in_parts(bench: Bench) -> None:
    weights = bench.artifact.path / "model.onnx.data"
    data = weights.read_bytes()
    file = next(f for f in bench.artifact.files.values() if f.name == "model.onnx.data")
    status, headers, body = bench.get(f"files/{file.sha256}")
    assert (status, body) == (200, data)
    assert headers["Accept-Ranges"] == "bytes"
    status, headers, body = bench.get(f"files/{file.sha256}", Range="bytes=1000-")
    assert (status, body) == (206, data[1000:])
    assert headers["Content-Range"] == f"bytes 1000-{len(data) - 1}/{len(data)}"
    assert bench.get(f"files/{file.sha256}", Range=f"bytes={len(data) + 5}-")[0] == 416
    assert bench.get(f"files/{'0' * 64}")[0] == 404


def test_work_has_ids_and_no_text(bench: Bench) -> None:
    device = bench.register()
    status, _, body = bench.get(f"work?device={device}")
    jobs = json.loads(body)["jobs"]
    assert status == 200
    assert [job["request"]["round"] for job in jobs] == [0, 1]
    prompt = jobs[0]["request"]["prompts"][0]
    assert prompt["ids"] == bench.artifact.encode(Prompt(name="p", text="The quick fox"))
    assert "text" not in prompt
    graph = jobs[0]["artifact"]["graphs"][0]["packed"]
    assert bench.get(f"files/{graph['sha256']}")[0] == 200
    assert bench.get("work?device=nobody")[0] == 400


def test_records_are_kept_and_work_gets_less(bench: Bench) -> None:
    one, two = bench.register(), bench.register()
    assert one != two
    assert one.startswith("a-phone-")
    assert bench.post("results", sample_of(one)) == (200, "kept")
    jobs = json.loads(bench.get(f"work?device={one}")[2])["jobs"]
    assert [job["request"]["round"] for job in jobs] == [1]
    assert len(json.loads(bench.get(f"work?device={two}")[2])["jobs"]) == 2
    failure = Failure(cell=Cell.model_validate(sample_of(one)["cell"]), round=1, created="now", message="no memory")
    assert bench.post("failure", json.loads(failure.model_dump_json())) == (200, "kept")
    assert bench.phones.finished == 1
    assert [record.kind for record in bench.kept] == ["device", "device", "sample", "failure"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"{}", "cell: Field required"),
        (b"[]", "this is no Sample"),
        ('{"kind": "sample", "extra": 1}', "this is no Sample"),
    ],
)
def test_garbage_is_refused_in_one_line(bench: Bench, body: bytes | str, message: str) -> None:
    status, text = bench.post("results", body)
    assert status == 400
    assert message in text
    assert "\n" not in text
    assert not bench.kept


def test_records_nobody_asked_for_are_refused(bench: Bench) -> None:
    device = bench.register()
    for wrong in (
        sample_of(device, 7),
        sample_of("somebody-else"),
        sample_of(device, cell={**sample_of(device)["cell"], "threads": 3}),
        sample_of(device, load_s=float("nan")),
        sample_of(device, load_s=-1.0),
        sample_of(device, answers=[]),
        sample_of(device, tests=[{"test": "tg", "tokens": 1, "depth": 0, "seconds": 1.0}]),
        sample_of(device, tests=[{"test": "tg", "tokens": 10**400, "depth": 0, "seconds": 1.0}]),
        sample_of(device, notes=["n" * 2000]),
        sample_of(device, notes=["\ud800"]),  # half of a surrogate pair: no text that can be written down
    ):
        assert bench.post("results", wrong)[0] == 400
    assert bench.post("results", sample_of(device))[0] == 200
    assert bench.post("results", sample_of(device))[0] == 200  # the page did not hear the first answer
    assert len(bench.kept) == 2
    assert bench.post("device", {"kind": "device", "id": "x", "type": "ssh", "name": "x"})[0] == 400


@pytest.mark.parametrize(
    "facts",
    [{"a": "\ud800"}, {"a": "x" * 30_000}, json.loads('{"a":' * 100 + "1" + "}" * 100)],
    ids=["surrogate", "long", "deep"],
)
def test_facts_that_cannot_be_kept_are_refused_and_nothing_ends(bench: Bench, facts: dict[str, Any]) -> None:
    device = {"kind": "device", "id": "new", "type": "browser", "name": "B", "facts": facts}
    assert bench.post("device", device)[0] == 400
    assert bench.server.defect is None
    assert not bench.kept
    assert bench.register().startswith("a-phone-")


def test_a_device_that_is_gone_ends_with_failures(bench: Bench) -> None:
    """By hand: one of two rounds was measured; the other, and both of a device that never spoke, are given up."""
    one, two = bench.register(), bench.register()
    assert bench.post("results", sample_of(one))[0] == 200
    bench.phones.give_up(60)
    assert bench.phones.finished == 0
    bench.server.soon(lambda: bench.phones.give_up(0))
    for _ in range(100):
        if bench.phones.finished == 2:
            break
        time.sleep(0.02)
    failures = [record for record in bench.kept if isinstance(record, Failure)]
    assert [(record.cell.device, record.round) for record in failures] == [(one, 1), (two, 0), (two, 1)]
    assert "said nothing for 0 s" in failures[0].message


def test_a_name_cannot_command_the_terminal(bench: Bench) -> None:
    heard: list[str] = []
    bench.phones._say = heard.append
    device = {"kind": "device", "id": "new", "type": "browser", "name": "p\x1b]0;x\x07\nq", "facts": {}}
    assert bench.post("device", device)[0] == 200
    (line,) = heard
    assert line.isprintable()


def test_a_huge_post_is_cut_off(bench: Bench) -> None:
    device = bench.register()
    status, text = bench.post("results", b" " * (BODY_LIMIT + 1))
    assert (status, text) == (413, "a record has at most 4 MB")
    assert bench.post("results", sample_of(device))[0] == 200


def test_a_slow_client_holds_nobody_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "READ_TIMEOUT_S", 0.5)
    begin = f"POST /{bench.server.token}/results HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{"
    idle = [connect(bench) for _ in range(20)]
    for connection in idle:
        connection.sendall(b"GET /half")
    answer = raw(bench, begin.encode())
    assert answer.startswith(b"HTTP/1.1 408")
    assert bench.get("")[0] == 200
    assert raw(bench, b"\x16\x03\x01 no http\r\n\r\n").startswith(b"HTTP/1.")
    for connection in idle:
        connection.close()
    bench.server.close()  # returns although clients hang


def connect(bench: Bench) -> socket.socket:
    return socket.create_connection(("127.0.0.1", bench.server.port), timeout=10)


def raw(bench: Bench, data: bytes) -> bytes:
    with connect(bench) as connection:
        connection.sendall(data)
        answer = b""
        while b"\r\n\r\n" not in answer:
            piece = connection.recv(65536)
            if not piece:
                break
            answer += piece
        return answer


def test_a_port_in_use_is_one_line(bench: Bench) -> None:
    other = WebServer(bench.phones, {}, LIB, port=bench.server.port)
    with pytest.raises(
        EdgeSkipError, match=r"cannot listen on 127\.0\.0\.1:\d+ .*choose another --host or --port"
    ) as caught:
        other.start()
    assert "\n" not in str(caught.value)


def test_a_record_that_cannot_be_kept_is_not_acknowledged(artifact: WebArtifact) -> None:
    bench = Bench(artifact)
    try:
        device = bench.register()

        def full(record: Post) -> None:
            raise OSError(28, "No space left on device")

        bench.phones._keep = full
        assert bench.post("results", sample_of(device))[0] == 500
        assert isinstance(bench.server.defect, OSError)
        assert bench.phones.finished == 0
    finally:
        bench.server.close()


def test_a_page_lost_twice_in_the_middle_fails_its_request(bench: Bench) -> None:
    device = bench.register()
    for expected in ([0, 1], [0, 1], [1]):
        jobs = json.loads(bench.get(f"work?device={device}")[2])["jobs"]
        assert [job["request"]["round"] for job in jobs] == expected
        assert bench.post(f"progress?device={device}", {"message": "begins"})[0] == 200
    failures = [record for record in bench.kept if isinstance(record, Failure)]
    assert [(failure.round, "closed in the middle" in failure.message) for failure in failures] == [(0, True)]
    with pytest.raises(RefusedError):
        bench.phones.progress("nobody", "x")


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

        async def talk() -> list[int]:
            async with aiohttp.ClientSession() as client:
                return [(await client.get(server.url(), ssl=check)).status for check in (trusting, printed)]

        assert asyncio.run(talk()) == [200, 200]
    finally:
        server.close()
    assert own_certificate(certificate.certificate, certificate.key).fingerprint == certificate.fingerprint


def test_a_bad_certificate_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("no certificate", encoding="utf-8")
    with pytest.raises(EdgeSkipError, match="is no PEM certificate"):
        own_certificate(tmp_path / "c.pem", tmp_path / "k.pem")


def test_serving_ends_when_the_devices_are_done(artifact: WebArtifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve` itself, with a client in the place of a phone that acts as soon as the address is printed."""
    import threading

    from edgeskip.bench.web import serve as serve_module

    monkeypatch.setattr(serve_module, "web_packages", lambda folder: LIB)
    kept: list[Post] = []
    lines: list[str] = []
    bench = Bench(artifact)
    bench.server.close()

    def phone(url: str) -> None:
        async def talk() -> None:
            async with aiohttp.ClientSession(url) as client:
                device = {"kind": "device", "id": "new", "type": "browser", "name": "B", "facts": {}}
                async with client.post("device", json=device) as response:
                    name = (await response.json())["id"]
                for number in range(2):
                    async with client.post("results", json=sample_of(name, number)) as response:
                        assert response.status == 200

        asyncio.run(talk())

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("open this page"):
            url = line.split("\n\n")[1].strip()
            threading.Thread(target=phone, args=(url,), daemon=True).start()

    assert serve([artifact.path], bench.requests_for, kept.append, devices=1, say=say) == 1
    assert [record.kind for record in kept] == ["device", "sample", "sample"]
    assert any("Only this machine reaches" in line for line in lines)
    assert any("█" in line for line in lines)  # the QR code


def test_other_hosts_get_https_unless_plain_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeskip.bench.web.serve import _certificate

    monkeypatch.setenv("EDGESKIP_CACHE", str(tmp_path))
    assert _certificate("127.0.0.1", ["127.0.0.1"], Security()) is None
    assert _certificate("0.0.0.0", ["192.0.2.7"], Security(plain=True)) is None
    made = _certificate("0.0.0.0", ["192.0.2.7"], Security())
    assert made is not None
    assert made.fingerprint.count(":") == 31
    with pytest.raises(EdgeSkipError, match="needs its key"):
        _certificate("0.0.0.0", [], Security(certificate=tmp_path / "c.pem"))
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
