"""The other side of ssh: a real sshd on loopback with a home of its own, a stand-in for what measures, an artifact."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loopback_sshd import Loopback, make
from ssh_rounds import HERE, Make, Open, quiet

from edgeskip.artifacts.manifest import read_manifest
from edgeskip.bench.devices.ssh import launcher as launcher_module
from edgeskip.bench.devices.ssh import transfer as copying_module
from edgeskip.bench.devices.ssh.launcher import SshLauncher, SshSettings
from edgeskip.core.files import sha256_of


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """The other side, running, with the stand-in on its Python's path; nothing of it runs after the test."""
    monkeypatch.setattr(launcher_module, "CHILD", "fake_child")
    monkeypatch.setattr(copying_module, "RETRY_S", 0.0)
    far = make(tmp_path)
    far.environment["PYTHONPATH"] = str(HERE)
    far.start()
    yield far
    far.stop()
    far.wait_until_nothing_runs()


@pytest.fixture
def launch(far: Loopback) -> Iterator[Open]:
    """Opens a launcher that uses this Python there; closed after the test."""
    with ExitStack() as stack:

        def launch(**changes: Any) -> SshLauncher:
            settings = SshSettings(ssh=far.options(), python=sys.executable)
            return stack.enter_context(closing(SshLauncher(far.named, replace(settings, **changes), quiet)))

        yield launch


@pytest.fixture
def make_artifact(artifact_path: Path) -> Make:
    """Makes an artifact folder with so many bytes of weights; nothing can run it, nothing here does."""

    def make_artifact(size: int) -> Path:
        (artifact_path / "model.onnx.data").write_bytes(os.urandom(size))
        manifest = read_manifest(artifact_path)
        files = {name: sha256_of(artifact_path / name) for name in manifest.files}
        manifest = manifest.model_copy(update={"files": files})
        (artifact_path / "edgeskip.json").write_text(manifest.model_dump_json(), encoding="utf-8")
        return artifact_path

    return make_artifact


@pytest.fixture
def artifact(make_artifact: Make) -> Path:
    return make_artifact(3_000_000)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a file system of its own here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=30)
