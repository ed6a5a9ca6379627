"""Providers that end the process which opens them. Oracle: a plugin made for this that ends its process by a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.onnxruntime import provider_child, provider_self_test
from edgeskip.runtime.engines.onnxruntime.providers import PROVIDERS

Write = Callable[[str], dict[str, str]]


@pytest.fixture
def plugin(tmp_path: Path) -> Write:
    """Writes a plugin for openvino that does something where it is asked for its library; the environment with it."""
    package = tmp_path / "site" / "onnxruntime_ep_openvino"
    package.mkdir(parents=True)

    def write(code: str) -> dict[str, str]:
        (package / "__init__.py").write_text(f"import os\ndef get_library_path(): {code}\n")
        return {**os.environ, "PYTHONPATH": str(package.parent), "EDGESKIP_CACHE": str(tmp_path / "cache")}

    (package / "libopenvino.so").write_bytes(b"\x7fELF")
    return write


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT], ids=["SIGSEGV", "SIGABRT"])
def test_a_provider_that_crashes_is_refused_in_one_line(number: signal.Signals, plugin: Write) -> None:
    """And it is opened no second time."""
    environment = plugin(f"os.kill(os.getpid(), {int(number)})")
    code = (
        "from edgeskip.runtime.engines.onnxruntime.providers import find_provider\n"
        "try: find_provider('openvino')\nexcept Exception as error: print(error)"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"the provider 'openvino' does not work here: opening it ends in {number.name} (")
        assert "reinstall onnxruntime-ep-openvino, or pass --provider cpu" in done.stdout
        environment = plugin("raise SystemExit('opened again')")


def test_the_command_ends_with_code_2(plugin: Write) -> None:
    """By way of the command line, and the function by which every engine opens a graph."""
    environment = plugin(f"os.kill(os.getpid(), {int(signal.SIGSEGV)})")
    code = (
        "from edgeskip.runtime.engines.onnxruntime.session import session_config\n"
        "import edgeskip.cli.main as cli\n"
        "cli.app.command('probe')(lambda: session_config('openvino', 1, frugal=False))\n"
        "import sys; sys.argv = ['edgeskip', 'probe']; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("edgeskip: error: the provider 'openvino' does not work here: opening it ends in SIG")
    assert done.stderr.count("\n") == 1


def test_an_exception_is_told_as_before(plugin: Write) -> None:
    environment = plugin("raise OSError('no such library')")
    code = (
        "from edgeskip.runtime.engines.onnxruntime.providers import find_provider\n"
        "try: find_provider('openvino')\nexcept Exception as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("the plugin onnxruntime_ep_openvino cannot be loaded (no such library)")


def test_the_child_multiplies(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: numpy, on the CPU provider; then with a product that is wrong."""
    assert provider_child.main("cpu") == 0
    assert capsys.readouterr().out == "run cpu\nok cpu\n"
    monkeypatch.setattr(provider_child.np, "allclose", lambda *_, **__: False)
    provider_child.main("cpu")
    assert capsys.readouterr().out == "run cpu\nbad cpu\n"


def test_wrong_numbers_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGESKIP_CACHE", str(tmp_path))
    monkeypatch.setattr(provider_self_test, "run_cases", lambda *_: {"xnnpack": "wrong"})
    provider_self_test._check.cache_clear()
    with pytest.raises(EdgeSkipError, match=r"'xnnpack' does not work here: it gives wrong numbers: update"):
        provider_self_test.check_opens("xnnpack")
    provider_self_test._check.cache_clear()


def test_the_cpu_needs_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeskip.runtime.engines.onnxruntime.providers import find_provider

    monkeypatch.setattr(provider_self_test, "run_cases", lambda *_: pytest.fail("a child for the CPU"))
    assert find_provider("cpu") is PROVIDERS["cpu"]
