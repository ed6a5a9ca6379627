"""A served artifact and the bench that serves it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from served_bench import Bench
from web_artifacts import web_artifact

from edgeskip.bench.devices.web.artifact import WebArtifact


@pytest.fixture(scope="module")
def artifact(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> WebArtifact:
    return WebArtifact(web_artifact(tiny_llama, tmp_path_factory.mktemp("served"), "whole"))


@pytest.fixture
def bench(artifact: WebArtifact) -> Iterator[Bench]:
    made = Bench(artifact)
    yield made
    made.server.close()
