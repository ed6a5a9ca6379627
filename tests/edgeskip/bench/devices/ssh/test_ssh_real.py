"""Real artifacts measured by the real process on the other side. Oracles: a session here, what pip puts there."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
from loopback_sshd import Loopback
from ssh_rounds import Open, measured, quiet, request

from edgeskip.bench.devices.ssh import launcher as launcher_module
from edgeskip.bench.devices.ssh.launcher import SshLauncher, SshSettings
from edgeskip.core.files import sha256_of


def exported(checkpoint: Path, folder: Path) -> Path:
    """The tiny model as a dense int4 artifact."""
    from exports import export_onnx
    from random_profiles import random_profile

    from edgeskip.exporters.onnx.formats import WeightFormat
    from edgeskip.models.source import open_model

    source = open_model(str(checkpoint))
    profile, vectors = random_profile(source, folder.with_suffix(".json"), skip=())
    export_onnx(source, profile, vectors, WeightFormat("int4"), folder)
    return folder


def test_the_real_process_measures_a_real_artifact(
    far: Loopback, launch: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_llama: Path
) -> None:
    """Oracle: the answer's tokens are those of a session here."""
    from edgeskip import load

    monkeypatch.setattr(launcher_module, "CHILD", "edgeskip.bench.runner.child")
    folder = exported(tiny_llama, tmp_path / "tiny")
    launcher = launch()
    sample = measured(launcher, launcher.prepare(folder, quiet))
    assert [(test.test, test.tokens, test.depth) for test in sample.tests] == [("pp", 16, 0), ("tg", 4, 8)]
    assert all(test.seconds > 0 for test in sample.tests)
    with load(folder) as session:
        answer = session.generate(request("", "any", "x").prompts[0].text, max_tokens=4)
    assert sample.answers[0].tokens == list(answer.tokens)


def test_a_gguf_file_is_measured_by_llama_cpp_there(
    launch: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("llama_cpp")
    from talking_gguf import talking_gguf

    monkeypatch.setattr(launcher_module, "CHILD", "edgeskip.bench.runner.child")
    file, _ = talking_gguf(tmp_path / "tiny.gguf")
    launcher = launch()
    path = launcher.prepare(file, quiet)
    assert Path(path).name == "tiny.gguf"
    assert Path(path).parent.name == sha256_of(file)
    sample = measured(launcher, path)
    assert sample.ran.engine == "llama.cpp"
    assert len(sample.tests) == 2


@pytest.mark.slow
def test_installs_what_is_needed_once_and_measures_with_it(
    far: Loopback, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_llama: Path
) -> None:
    """An environment made by pip on the other side; needs a package index. Oracle: what it says of its progress."""
    monkeypatch.setattr(launcher_module, "CHILD", "edgeskip.bench.runner.child")
    far.environment = {name: os.environ[name] for name in os.environ if name.startswith("PIP_")}
    far.restart()
    folder = exported(tiny_llama, tmp_path / "tiny")
    settings, told = SshSettings(ssh=far.options()), []
    with closing(SshLauncher(far.named, settings, told.append)) as launcher:
        assert measured(launcher, launcher.prepare(folder, quiet)).ran.engine == "onnxruntime"
    assert any("installing" in message for message in told)
    (environment,) = far.cache.glob("venv-*")
    assert (environment / ".complete").exists()
    told.clear()
    with closing(SshLauncher(far.named, settings, told.append)) as launcher:
        assert measured(launcher, launcher.prepare(folder, quiet)).tests
    assert not any("installing" in message for message in told)
