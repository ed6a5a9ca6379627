"""Processes that measure. Oracle: small scripts that answer, fail or die."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from harness.processes import ask_afresh

from edgeskip.core.errors import EdgeSkipError

TOOLS = Path(__file__).parents[4] / "tools" / "benchmarks"
SCRIPT = f"""
import os, sys
sys.path.insert(0, {str(TOOLS)!r})
from edgeskip.core.errors import EdgeSkipError
from harness.processes import answer
def work(request):
    print("a library's banner")
    os.write(1, b"another, past Python\\n")
    if request["manner"] == "refusing":
        raise EdgeSkipError("no such artifact: export it")
    if request["manner"] == "dying":
        print("out of memory", file=sys.stderr)
        sys.stderr.flush()
        os._exit(3)
    return {{"arguments": sys.argv[1:], "threads": os.environ["OMP_NUM_THREADS"], "pid": os.getpid()}}
answer(work)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "some_tool.py"
    file.write_text(SCRIPT)
    return file


def test_a_reply(script: Path) -> None:
    watched: list[int] = []

    def watch(process: subprocess.Popen[bytes]) -> None:
        watched.append(process.pid)

    reply = ask_afresh(script, {"manner": "well"}, threads=3, watch=watch)
    assert reply == {"arguments": ["worker"], "threads": "3", "pid": watched[0]}


def test_a_worker_that_says_why_not(script: Path) -> None:
    with pytest.raises(EdgeSkipError, match=r"^some_tool\.py worker: no such artifact: export it$"):
        ask_afresh(script, {"manner": "refusing"}, threads=1)


def test_a_worker_that_dies(script: Path) -> None:
    with pytest.raises(EdgeSkipError, match=r"code 3 and gave no reply:\n(.*\n)*out of memory"):
        ask_afresh(script, {"manner": "dying"}, threads=1)
