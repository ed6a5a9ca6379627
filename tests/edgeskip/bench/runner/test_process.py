"""The process that measures, and all the ways it may end. Oracle: made-up children that keep to the protocol or not."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from edgeskip.bench.runner.process import run_worker
from edgeskip.bench.runner.quality import QualityRequest
from edgeskip.core.errors import EdgeSkipError

REQUEST = QualityRequest(path="p", text="t")


def child(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_progress_then_the_last_line() -> None:
    code = """
import sys, json
asked = json.loads(sys.stdin.read())
print(json.dumps({"kind": "progress", "message": "loading " + asked["path"]}))
print("what a library prints")
print(json.dumps({"kind": "sample", "value": 7}))
"""
    heard: list[str] = []
    assert run_worker(child(code), REQUEST, 30, heard.append) == {"kind": "sample", "value": 7}
    assert heard == ["loading p"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ('print(\'{"kind": "error", "message": "no such file: check the path"}\'); exit(2)', "^no such file: check"),
        ("import sys; sys.stderr.write('boom\\n'); exit(3)", "ended with code 3: boom.*edgeskip doctor"),
        (
            "import os; os.kill(os.getpid(), 9)",
            r"was ended by SIGKILL \(.*; nothing shows that memory ran out\)",
        ),
        ("print('no JSON')", "ended with code 0"),
        ('print(\'{"kind": "progress", "message": "m"}\')', "ended with code 0"),
        ('print(\'{"kind": "sample"}\'); exit(1)', "ended with code 1"),
    ],
)
def test_a_child_that_fails_is_one_line(code: str, words: str) -> None:
    with pytest.raises(EdgeSkipError, match=words) as raised:
        run_worker(child(code), REQUEST, 30)
    assert "\n" not in str(raised.value)


def test_one_that_says_nothing_is_ended_with_all_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = f"""
import os, subprocess, sys, time
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{other.pid}}")
time.sleep(60)
"""
    begin = time.monotonic()
    with pytest.raises(EdgeSkipError, match="for 2 s"):
        run_worker(child(code), REQUEST, 2)
    assert time.monotonic() - begin < 30
    assert not any(is_running(int(pid)) for pid in pids.read_text().split())


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    pids = tmp_path / "pid"
    code = f"import os, time; open({str(pids)!r}, 'w').write(str(os.getpid())); time.sleep(60)"

    def interrupt() -> None:
        while not pids.exists() or not pids.read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_worker(child(code), REQUEST, 60)
    assert not is_running(int(pids.read_text()))


def is_running(pid: int) -> bool:
    """Zombies of a parent that is gone are reaped in a moment."""
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    return True
