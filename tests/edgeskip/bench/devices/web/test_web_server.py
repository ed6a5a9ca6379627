"""The web server, with aiohttp's client and bare sockets. Oracle: the files' bytes; status codes by hand."""

from __future__ import annotations

import json
import socket
from typing import Any

import aiohttp
import pytest
from served_bench import LIB, Bench, sample_of

from edgeskip.bench.devices.web import server as server_module
from edgeskip.bench.devices.web.artifact import WebArtifact
from edgeskip.bench.devices.web.serve import DeviceRecord
from edgeskip.bench.devices.web.server import BODY_LIMIT, WebServer
from edgeskip.bench.runner.request import BenchPrompt
from edgeskip.bench.schema import BenchCell, RoundFailure
from edgeskip.core.errors import EdgeSkipError


def test_without_the_token_everything_is_forbidden(bench: Bench) -> None:
    base = bench.server.url()
    for path in ("/", "/work", "/wrong/", "/wrong/work", f"/{bench.server.token[:-1]}/", "/%2e%2e/", "/results"):
        for method in ("GET", "POST", "PUT"):

            async def execute(
                client: aiohttp.ClientSession, path: str = path, method: str = method
            ) -> tuple[int, str, Any]:
                async with client.request(method, path) as response:
                    return response.status, await response.text(), response.headers

            status, text, headers = bench.ask(execute)
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
    assert prompt["ids"] == bench.artifact.encode(BenchPrompt(name="p", text="The quick fox"))
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
    failure = RoundFailure(
        cell=BenchCell.model_validate(sample_of(one)["cell"]), round=1, created="now", message="no memory"
    )
    assert bench.post("failure", json.loads(failure.model_dump_json())) == (200, "kept")
    assert bench.phones.finished == 1
    assert [record.kind for record in bench.kept] == ["device", "device", "sample", "failure"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"{}", "cell: Field required"),
        (b"[]", "RoundResult"),
        ('{"kind": "sample", "extra": 1}', "RoundResult"),
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

        def full(record: DeviceRecord) -> None:
            raise OSError(28, "No space left on device")

        bench.phones._keep = full
        assert bench.post("results", sample_of(device))[0] == 500
        assert isinstance(bench.server.defect, OSError)
        assert bench.phones.finished == 0
    finally:
        bench.server.close()
