"""Fixtures of the runtime's tests."""

import pytest
from tiny_graph import TinyArtifact, build_tiny_artifact


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> TinyArtifact:
    return build_tiny_artifact(tmp_path_factory.mktemp("tiny") / "artifact")
