"""Which torch the development environment gets. Oracle: the commands it would run; pip and nvidia-smi are replaced."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "install_torch.py"
CPU = "torch==2.13.0+cpu"
Pretend = Callable[..., list[tuple[str, ...]]]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("install_torch", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)  # torch is not there yet
    return module


@pytest.fixture
def pretend(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Replaces the machine; returns the list of pip's arguments, filled as the script runs."""

    def replace(*, platform: str, gpu: bool, successes: tuple[bool, ...]) -> list[tuple[str, ...]]:
        asked: list[tuple[str, ...]] = []

        def pip_install(*arguments: str, quiet_failure: bool = False) -> bool:
            asked.append(arguments)
            return successes[len(asked) - 1]

        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(script, "has_nvidia_gpu", lambda: gpu)
        monkeypatch.setattr(script, "pip_install", pip_install)
        return asked

    return replace


def test_the_cpu_build_where_pip_finds_it(script: ModuleType, pretend: Pretend) -> None:
    asked = pretend(platform="linux", gpu=False, successes=(True,))
    assert script.main() == 0
    assert asked == [(CPU,)]


def test_pytorchs_cpu_index_where_pip_does_not(script: ModuleType, pretend: Pretend) -> None:
    asked = pretend(platform="linux", gpu=False, successes=(False, True))
    assert script.main() == 0
    assert asked[1][-3:] == ("--extra-index-url", script.CPU_INDEX, CPU)


def test_never_the_cuda_build_without_a_gpu(
    script: ModuleType, pretend: Pretend, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = pretend(platform="linux", gpu=False, successes=(False, False))
    assert script.main() == 1
    assert all(arguments[-1] == CPU for arguments in asked)
    assert "Not installing the CUDA build" in capsys.readouterr().err


@pytest.mark.parametrize(("platform", "gpu"), [("linux", True), ("darwin", False), ("win32", False)])
def test_the_plain_build_elsewhere(script: ModuleType, pretend: Pretend, platform: str, gpu: bool) -> None:
    asked = pretend(platform=platform, gpu=gpu, successes=(True,))
    assert script.main() == 0
    assert asked == [("torch==2.13.0",)]


def test_nothing_to_do_where_torch_is(script: ModuleType, pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend(platform="linux", gpu=False, successes=())
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: object())
    assert script.main() == 0
    assert asked == []
