"""The page in a real headless Chromium, on tiny random fp32 models. Oracle: the Python runtime's tokens on the same
artifact."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from web_artifacts import Kind, need_browser, web_artifact

from edgeskip.bench.devices.web import browser_launcher
from edgeskip.bench.devices.web.browser import NO_GPU
from edgeskip.bench.devices.web.browser_launcher import BrowserLauncher
from edgeskip.bench.devices.web.certificates import addresses
from edgeskip.bench.devices.web.server import HEADERS, WebServer
from edgeskip.bench.runner.request import BenchPrompt, RoundRequest
from edgeskip.bench.runner.request import SyntheticTest as Timed  # pytest would collect a Test
from edgeskip.bench.schema import BenchCell, RoundResult, Strategy
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.session import load

PROMPTS = [
    BenchPrompt(name=str(i), text=text) for i, text in enumerate(("Skip what it does not need.", "The quick fox", "é"))
]
TOKENS = 24


@pytest.fixture(scope="module")
def artifacts(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Path]:
    folder = tmp_path_factory.mktemp("web")
    return {kind: web_artifact(tiny_llama, folder, kind) for kind in ("whole", "exits", "skip-plan")}


@pytest.fixture(scope="module")
def launcher(all_cores: None) -> Iterator[BrowserLauncher]:
    found = BrowserLauncher(browser=need_browser(), draft_tokens=3, timeout_s=120)
    yield found
    found.close()


def request_of(path: Path, strategy: Strategy, *, tests: list[Timed] | None = None, threads: int = 2) -> RoundRequest:
    cell = BenchCell(target=path.name, device="chromium", provider="web", threads=threads, strategy=strategy)
    prompts = PROMPTS if tests is None else []
    return RoundRequest(path=str(path), cell=cell, round=0, tests=tests or [], prompts=prompts, max_tokens=TOKENS)


def run(launcher: BrowserLauncher, request: RoundRequest) -> RoundResult:
    launcher.prepare(Path(request.path), lambda message: None)
    return launcher.run(request, lambda message: None)


def python_tokens(path: Path) -> list[list[int]]:
    with load(path, threads=1) as session:
        made = [session.generate(p.text, max_tokens=TOKENS, strategy="plain") for p in PROMPTS]
        return [list(one.tokens) for one in made]


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [
        ("whole", "plain"),
        ("exits", "plain"),
        ("exits", "self-speculative"),
        ("skip-plan", "plain"),
        ("skip-plan", "self-speculative"),
    ],
)
def test_tokens_are_those_of_the_python_runtime(
    launcher: BrowserLauncher, artifacts: dict[Kind, Path], kind: Kind, strategy: Strategy
) -> None:
    sample = run(launcher, request_of(artifacts[kind], strategy))
    expected = python_tokens(artifacts[kind])
    assert [answer.tokens for answer in sample.answers] == expected
    assert (sample.ran.engine, sample.ran.provider, sample.ran.threads) == ("onnxruntime-web", "web", 2)
    assert sample.peak_rss_bytes is not None
    assert sample.peak_rss_bytes > 50e6
    for answer, tokens in zip(sample.answers, expected, strict=True):
        assert len(answer.gaps_s) == max(0, len(tokens) - 1)
        assert 0 < answer.prefill_s <= answer.ttft_s
        if strategy == "plain":
            assert answer.speculation is None
        else:
            assert answer.speculation is not None
            assert answer.speculation.plain_steps <= 1  # drafted wherever more than one token was left
            assert answer.speculation.drafted >= answer.speculation.rounds > 0
            # Each round gives its accepted tokens and one more; the first token is the prefill's.
            given = answer.speculation.accepted + answer.speculation.rounds + answer.speculation.plain_steps + 1
            assert len(tokens) in (given, *range(given - 3, given))  # an end may lie within the last round
    if strategy == "self-speculative":
        assert sum(a.speculation.accepted for a in sample.answers if a.speculation) > 0


def test_int4_answers_are_pythons_where_activations_are_float32(
    launcher: BrowserLauncher, tiny_llama: Path, tmp_path: Path
) -> None:
    """At accuracy level 1; at 4 native kernels round activations to 8 bits, which the page's do not."""
    folder = web_artifact(tiny_llama, tmp_path, "exits", "int4", accuracy_level=1)
    for strategy in ("plain", "self-speculative"):
        sample = run(launcher, request_of(folder, strategy))
        assert [answer.tokens for answer in sample.answers] == python_tokens(folder)
        assert any("unpacked to float32" in note for note in sample.notes)


def test_synthetic_tests_are_timed_in_the_order_asked(launcher: BrowserLauncher, artifacts: dict[Kind, Path]) -> None:
    tests = [
        Timed(test="pp", tokens=64, depth=0),
        Timed(test="tg", tokens=8, depth=32),
        Timed(test="pp", tokens=300, depth=0),
    ]
    sample = run(launcher, request_of(artifacts["whole"], "plain", tests=tests))
    assert [(t.test, t.tokens, t.depth) for t in sample.tests] == [(t.test, t.tokens, t.depth) for t in tests]
    assert all(t.seconds > 0 for t in sample.tests)
    assert sample.load_s > 0


def test_the_chooser_decides_without_a_fixed_depth(artifacts: dict[Kind, Path]) -> None:
    launcher = BrowserLauncher(browser=need_browser(), timeout_s=120)
    try:
        sample = run(launcher, request_of(artifacts["exits"], "self-speculative"))
    finally:
        launcher.close()
    assert [answer.tokens for answer in sample.answers] == python_tokens(artifacts["exits"])
    assert launcher.device.type == "browser"
    assert launcher.device.facts["cross_origin_isolated"] is True


def test_what_the_page_cannot_do_is_an_error(launcher: BrowserLauncher, artifacts: dict[Kind, Path]) -> None:
    with pytest.raises(EdgeSkipError, match="not online"):
        run(launcher, request_of(artifacts["whole"], "online"))
    with pytest.raises(EdgeSkipError, match="has no draft of its own"):
        run(launcher, request_of(artifacts["whole"], "self-speculative"))
    with pytest.raises(EdgeSkipError, match="needs a context of 1002 tokens"):
        run(launcher, request_of(artifacts["whole"], "plain", tests=[Timed(test="tg", tokens=2, depth=1000)]))


def test_a_damaged_weight_file_is_refused_by_its_checksum(
    launcher: BrowserLauncher, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeskip.artifacts.files.HASHED_BYTES", 20_000)  # else it is refused before a page sees it
    folder = web_artifact(tiny_llama, tmp_path, "whole", "int4")
    weights = folder / "model.onnx.data"
    data = np.fromfile(weights, np.uint8)
    data[1000] ^= 1
    data.tofile(weights)
    with pytest.raises(EdgeSkipError, match=r"model\.onnx\.data .*checksum"):
        run(launcher, request_of(folder, "plain"))


def test_a_download_cut_in_the_middle_goes_on_where_it_stopped(
    artifacts: dict[Kind, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser_launcher, "WebServer", CuttingServer)
    launcher = BrowserLauncher(browser=need_browser(), timeout_s=120)
    try:
        first = run(launcher, request_of(artifacts["whole"], "plain"))
        server = launcher._server
        assert isinstance(server, CuttingServer)
        size = (artifacts["whole"] / "model.onnx.data").stat().st_size
        half = size // 2
        assert [begin for begin, length in server.ranges if length == size] == [0, half]
        # The next round finds the file in the browser's own storage: nothing of it is asked for.
        second = run(launcher, request_of(artifacts["whole"], "plain"))
        assert [begin for begin, length in server.ranges if length == size] == [0, half]
    finally:
        launcher.close()
    tokens = python_tokens(artifacts["whole"])
    assert [a.tokens for a in first.answers] == [a.tokens for a in second.answers] == tokens


def test_an_insecure_page_runs_on_one_thread(artifacts: dict[Kind, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain http on an address that is not this machine's loopback: no shared memory, nothing kept."""
    hosts = addresses()
    if not hosts:
        pytest.skip("this machine has no address but loopback")
    monkeypatch.setattr(browser_launcher, "WebServer", partial(WebServer, host=hosts[0]))
    launcher = BrowserLauncher(browser=need_browser(), draft_tokens=3, timeout_s=120)
    try:
        sample = run(launcher, request_of(artifacts["exits"], "self-speculative"))
    finally:
        launcher.close()
    assert [answer.tokens for answer in sample.answers] == python_tokens(artifacts["exits"])
    assert (launcher.device.facts["secure"], launcher.device.facts["cross_origin_isolated"]) == (False, False)
    assert sample.ran.threads == 1
    assert any("1 of 2 threads" in note for note in sample.notes)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "strategy"), [("whole", "plain"), ("exits", "self-speculative")])
def test_webgpu_gives_the_same_tokens(artifacts: dict[Kind, Path], kind: Kind, strategy: Strategy) -> None:
    """On Chromium's software adapter where the machine has no GPU."""
    software = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
    launcher = BrowserLauncher(
        [("webgpu", 1)], browser=need_browser(), draft_tokens=3, timeout_s=240, gpu_flags=software
    )
    request = request_of(artifacts[kind], strategy, threads=1)
    request = request.model_copy(update={"cell": request.cell.model_copy(update={"provider": "webgpu"})})
    try:
        sample = run(launcher, request)
    except EdgeSkipError as error:
        if "no WebGPU adapter" in str(error):
            pytest.skip(str(error))
        raise
    finally:
        launcher.close()
    assert [answer.tokens for answer in sample.answers] == python_tokens(artifacts[kind])
    assert sample.ran.provider == "webgpu"
    (copied,) = launcher.device.rooflines
    assert copied.bytes_per_s is not None
    assert 1e8 < copied.bytes_per_s < 1e13
    assert copied.flops_per_s is None


@pytest.mark.slow
def test_the_roofline_is_measured_in_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loose bounds, as none is known; a throttled processor gives less, by definition."""
    launcher = BrowserLauncher([("web", 1), ("web", 2), ("webgpu", 1)], browser=need_browser(), gpu_flags=NO_GPU)
    slow = BrowserLauncher([("web", 1)], browser=need_browser(), throttle=100)
    try:
        one, two, gpu = launcher.device.rooflines
        assert [(r.provider, r.threads) for r in (one, two, gpu)] == [("web", 1), ("web", 2), ("webgpu", 1)]
        for found in (one, two):
            assert found.bytes_per_s is not None
            assert found.flops_per_s is not None
            assert 1e8 < found.bytes_per_s < 1e12
            assert 1e8 < found.flops_per_s < 1e13
        assert (gpu.bytes_per_s, gpu.flops_per_s) == (None, None)
        assert "no WebGPU adapter" in gpu.how
        (throttled,) = slow.device.rooflines
        assert throttled.flops_per_s is not None
        assert one.flops_per_s is not None
        assert throttled.flops_per_s < one.flops_per_s / 5
        assert "divided by 100" in throttled.how
        assert len(slow.rooflines_again(lambda message: None)) == 1
        monkeypatch.setattr(browser_launcher, "START_TIMEOUT_S", 0.0)
        (unmeasured,) = slow.rooflines_again(lambda message: None)  # what fails there ends nothing
        assert (unmeasured.bytes_per_s, unmeasured.flops_per_s) == (None, None)
        assert "silent" in unmeasured.how
    finally:
        launcher.close()
        slow.close()


def test_a_browser_that_dies_or_never_speaks_is_an_error(
    artifacts: dict[Kind, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell script in the browser's place: it tells its version and then ends, or hangs with a child of its own."""
    monkeypatch.setattr(browser_launcher, "web_packages", lambda folder: {})
    monkeypatch.setattr(browser_launcher, "START_TIMEOUT_S", 1.0)
    for script, message in (("exit 1", "ended in the middle"), ("sleep 600 & sleep 600", "has been silent for 1 s")):
        program = tmp_path / "chromium"
        program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo Chromium 1 && exit\n{script}\n', encoding="utf-8")
        program.chmod(0o755)
        with pytest.raises(EdgeSkipError, match=message):
            BrowserLauncher(browser=str(program))
    with pytest.raises(EdgeSkipError, match="none is not a program"):
        BrowserLauncher(browser=str(tmp_path / "none"))


class CuttingServer(WebServer):
    """Cuts the first download of the weights in half; notes where each download begins, and the file's size."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ranges: list[tuple[int, int]] = []

    async def _file(self, request: web.Request) -> web.StreamResponse:
        files = [file for artifact in self._artifacts.values() for file in artifact.files.values()]
        file = next(file for file in files if file.sha256 == request.match_info["sha256"])
        begin = request.http_range.start or 0
        self.ranges.append((begin, file.size))
        if file.name != "model.onnx.data" or begin:
            return await super()._file(request)
        assert isinstance(file.source, Path)
        response = web.StreamResponse(headers={"Content-Length": str(file.size), **HEADERS})
        await response.prepare(request)
        await response.write(file.source.read_bytes()[: file.size // 2])
        await asyncio.sleep(0.3)  # so that what was sent arrives before the connection ends
        assert request.transport is not None
        request.transport.close()
        return response


@pytest.mark.slow
def test_throttling_slows_the_workers_down(launcher: BrowserLauncher, artifacts: dict[Kind, Path]) -> None:
    tests = [Timed(test="pp", tokens=400, depth=0)] * 20
    free = run(launcher, request_of(artifacts["whole"], "plain", tests=tests, threads=1))
    slow = BrowserLauncher(browser=need_browser(), throttle=4, timeout_s=240)
    try:
        sample = run(slow, request_of(artifacts["whole"], "plain", tests=tests, threads=1))
    finally:
        slow.close()
    ratio = np.median([t.seconds for t in sample.tests]) / np.median([t.seconds for t in free.tests])
    assert 2.5 < ratio < 6.5  # 4 by construction; other work on the machine adds to both
    assert slow.device.emulated is not None
    assert "4x" in slow.device.emulated
