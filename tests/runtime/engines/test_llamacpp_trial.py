"""A GGUF of unknown origin is opened in a child process before it is opened here.

Oracle: llama.cpp by itself, which the files here end by a signal though they keep every rule (tests/raw_llamacpp.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from raw_gguf import STRING, RawGguf
from raw_llamacpp import outcomes
from talking_gguf import talking_gguf

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.llamacpp import files as llamacpp_files
from edgeskip.runtime.engines.llamacpp import trial as llamacpp_trial
from edgeskip.runtime.engines.llamacpp.model import LlamaModel

pytestmark = pytest.mark.trial


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESKIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking_gguf(tmp_path_factory.mktemp("sound") / "x.gguf")[0]


@pytest.fixture
def deadly(sound: Path, tmp_path: Path) -> Path:
    """An architecture whose graph asserts that there are experts; no rule of ours knows it."""
    file = RawGguf.read(sound)
    for index, key in enumerate(file.keys):
        if key.name.startswith(b"llama."):
            file.keys[index] = replace(key, name=b"smallthinker." + key.name.removeprefix(b"llama."))
    file.set("general.architecture", STRING, "smallthinker")
    return file.write(tmp_path / "deadly.gguf")


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were started."""
    started: list[list[str]] = []
    spawn = llamacpp_trial.run_child

    def counted(command: list[str], seconds: float) -> Any:
        started.append(command)
        return spawn(command, seconds)

    monkeypatch.setattr(llamacpp_trial, "run_child", counted)
    return started


def test_a_file_that_ends_llamacpp_is_one_error(deadly: Path) -> None:
    assert outcomes([deadly]) == ["SIGABRT"]
    with pytest.raises(EdgeSkipError, match="SIGABRT") as caught:
        LlamaModel(deadly)
    message = str(caught.value)
    assert "n_expert must be > 0" in message  # what llama.cpp itself says
    assert str(deadly) in message
    assert "\n" not in message


def test_every_entrance_says_so(deadly: Path, tmp_path: Path) -> None:
    """Exit code 2 and one line, in processes of their own: a signal would be seen."""
    environment = {**os.environ, "EDGESKIP_CACHE": str(tmp_path / "cache"), "COLUMNS": "200"}
    for arguments in (
        ("run", deadly, "-p", "a", "--max-tokens", "1"),
        ("profile-device", deadly, "-o", tmp_path / "device.json"),
    ):
        command = [sys.executable, "-m", "edgeskip", *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert result.returncode == 2, (arguments, result.stderr[-2000:])
        assert "Traceback" not in result.stderr, arguments
        assert "SIGABRT" in result.stderr, (arguments, result.stderr)


def test_a_sound_file_is_tried_once(sound: Path, cache: Path, children: list[list[str]]) -> None:
    LlamaModel(sound).close()
    LlamaModel(sound).close()
    assert len(children) == 1
    assert len(list((cache / "opened-gguf").iterdir())) == 1


def test_a_changed_file_is_tried_again(sound: Path, tmp_path: Path, children: list[list[str]]) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(sound.read_bytes())
    LlamaModel(path).close()
    path.write_bytes(sound.read_bytes())  # the same bytes: the time alone tells
    os.utime(path, ns=(1, 1))
    LlamaModel(path).close()
    assert len(children) == 2


def test_a_file_that_failed_is_not_remembered(deadly: Path, cache: Path, children: list[list[str]]) -> None:
    for _ in range(2):
        with pytest.raises(EdgeSkipError, match="SIGABRT"):
            LlamaModel(deadly)
    assert len(children) == 2
    assert not (cache / "opened-gguf").exists()


def test_without_a_place_to_remember_it_works(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGESKIP_CACHE", str(tmp_path / "file" / "below"))
    LlamaModel(sound).close()


def _replaced_child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    spawn = llamacpp_trial.run_child
    monkeypatch.setattr(
        llamacpp_trial, "run_child", lambda command, seconds: spawn([sys.executable, "-c", code], seconds)
    )


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGILL, signal.SIGBUS, signal.SIGKILL])
def test_any_signal_is_named(number: signal.Signals, sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _replaced_child(monkeypatch, f"import os; print('begun', flush=True); os.kill(os.getpid(), {int(number)})")
    with pytest.raises(EdgeSkipError, match=number.name):
        LlamaModel(sound)


def test_a_file_that_takes_for_ever(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _replaced_child(monkeypatch, "import time; print('begun', flush=True); time.sleep(60)")
    monkeypatch.setattr(llamacpp_trial, "LIMITS", replace(llamacpp_trial.LIMITS, seconds=2.0))
    with pytest.raises(EdgeSkipError, match="does not open it within 2 s"):
        LlamaModel(sound)


def test_a_child_that_cannot_start_says_nothing_about_the_file(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _replaced_child(monkeypatch, "import sys; sys.exit(1)")
    LlamaModel(sound).close()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    LlamaModel(sound).close()


def test_a_frozen_program_is_not_started_again(
    sound: Path, monkeypatch: pytest.MonkeyPatch, children: list[list[str]]
) -> None:
    """Its `sys.executable` is itself."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    LlamaModel(sound).close()
    assert children == []


def test_what_edgeskip_wrote_is_not_tried(
    sound: Path, tmp_path: Path, children: list[list[str]], sealed: Callable[[Path], Path]
) -> None:
    path = sealed(tmp_path / "ours.gguf")
    LlamaModel(path).close()
    assert children == []
    file = RawGguf.read(path)
    file.set("general.name", STRING, "changed since")
    LlamaModel(file.write(path)).close()
    assert len(children) == 1


def test_a_digest_counts_for_nothing_in_what_edgeskip_does_not_write(deadly: Path) -> None:
    """Anybody can compute it."""
    from edgeskip.artifacts.gguf.seal import SEAL_KEY, UNSEALED, seal_gguf

    file = RawGguf.read(deadly)
    file.set(SEAL_KEY, STRING, UNSEALED)
    seal_gguf(file.write(deadly))
    with pytest.raises(EdgeSkipError, match="SIGABRT"):
        LlamaModel(deadly)


@pytest.fixture
def sealed(sound: Path) -> Callable[[Path], Path]:
    from edgeskip.artifacts.gguf.seal import SEAL_KEY, UNSEALED, seal_gguf

    def write(path: Path) -> Path:
        file = RawGguf.read(sound)
        file.set(SEAL_KEY, STRING, UNSEALED)
        file.write(path)
        seal_gguf(path)
        return path

    return write


def test_a_fixture_of_all_tests_does_not_stay(sound: Path) -> None:
    """tests/conftest.py replaces the trial in all tests but these."""
    assert llamacpp_files.try_opening is llamacpp_trial.try_opening
