"""What a command shows of library warnings: nothing. Oracle: Python's own warnings machinery in fresh processes, and a
library (transformers, of a checkpoint in an older form) that does warn."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WARN = (
    "import warnings, logging, subprocess, sys\n"
    "for kind in (FutureWarning, DeprecationWarning, UserWarning):\n"
    "    warnings.warn('noise', kind)\n"
    "import transformers\n"
    "transformers.logging.get_logger('transformers.x').warning('noise: legacy behaviour')\n"
    "logging.getLogger('accelerate.x').warning('noise')\n"
    "warnings.warn('a result is wrong', RuntimeWarning)\n"
)
CHILD = "subprocess.run([sys.executable, '-c', 'import warnings; warnings.warn(\"noise\", FutureWarning)'])\n"
HIDE = "from edgeskip.core.library_warnings import hide_library_warnings; hide_library_warnings()\n"


def _stderr(code: str, *options: str, **more: str) -> str:
    ours = ("PYTHONWARNINGS", "TRANSFORMERS_VERBOSITY", "EDGESKIP_TRACEBACK")
    environment = {name: value for name, value in os.environ.items() if name not in ours} | more
    command = [sys.executable, *options, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=True)
    return done.stderr


def test_commands_and_their_children_hide_them() -> None:
    shown = _stderr(HIDE + WARN + CHILD)
    assert "noise" not in shown
    assert "a result is wrong" in shown


@pytest.mark.parametrize(("options", "more"), [(("-W", "default"), {}), ((), {"EDGESKIP_TRACEBACK": "1"})])
def test_who_asks_sees_them(options: tuple[str, ...], more: dict[str, str]) -> None:
    assert _stderr(HIDE + WARN, *options, **more).count("noise") >= 3


def test_python_callers_keep_theirs() -> None:
    assert "noise" in _stderr("import edgeskip, edgeskip.cli.main\n" + WARN)


def test_calibrate_is_quiet(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("The river runs past the mill and the mill turns.\n" * 80)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    options = ("--corpus", "t.txt", "--tokens", "128", "--context", "64", "--decode-tokens", "64", "-o", "p.json")
    command = [sys.executable, "-m", "edgeskip", "calibrate", str(tiny_llama), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "arning" not in done.stderr
    assert "deprecated" not in done.stderr
