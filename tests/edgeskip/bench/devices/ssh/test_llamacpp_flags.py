"""llama-cpp-python is compiled on the other machine with the flags for it. Oracle: sh, which runs the steps, with a
stand-in for that machine's Python that shows what it was given."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from edgeskip.bench.devices.ssh.environment import RemoteEnvironment, add_llama_cpp


class Far:
    """A machine without llama-cpp-python that runs what it is told here."""

    named = "far"

    def ask(self, what: str, progress: Any, **_: Any) -> dict[str, Any]:
        return {"missing": ["llama_cpp"]}

    def run(self, argv: list[str], progress: Any, **_: Any) -> dict[str, Any]:
        done = subprocess.run(argv, capture_output=True, text=True)
        self.said = done.stdout
        return {"code": done.returncode}


def test_the_flags_are_asked_there(tmp_path: Path) -> None:
    python = tmp_path / "venv-1" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        '#!/bin/sh\ncase "$2" in *llamacpp.build) echo "-DX=\'a b\' $PYTHONPATH";; *) echo "$CMAKE_ARGS|$2";; esac\n'
    )
    python.chmod(0o755)
    far: Any = Far()
    add_llama_cpp(far, RemoteEnvironment(str(python), "/code", own=True), lambda _: None)
    assert far.said == "-DX='a b' /code|pip\n"
    assert (tmp_path / "venv-1" / ".complete-llamacpp").exists()
