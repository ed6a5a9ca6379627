"""Code in the sandbox: what it may not do, and what it may. Oracle: the missing file, the clock, the verdict."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from eval_material import ADD, write_lines

from edgeskip.evaluation import reading
from edgeskip.evaluation.humaneval import HUMANEVAL
from edgeskip.evaluation.sandbox import Verdict, run_sandboxed

pytest.importorskip("resource", reason="no limits on this platform")


def test_a_right_program() -> None:
    program = "from typing import List\nimport math, re, collections, hashlib, random\nassert math.isqrt(9) == 3\n"
    assert run_sandboxed(program) == Verdict(True)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 == 2", "AssertionError"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("import os; os._exit(0)", "killed"),
        ('print(\'{"passed": true, "proof": "", "reason": ""}\'); import os; os._exit(0)', "killed"),
        ("x = [0] * (1 << 30)", "MemoryError"),
        ("def f(): return f()\nf()", "RecursionError"),
        ("import os; os.fork()", "PermissionError"),
        ("import os; os.system('true')", "PermissionError"),
        ("import subprocess; subprocess.run(['true'])", "PermissionError"),
        ("import socket", "PermissionError"),
        ("import ctypes", "PermissionError"),
        ("import os; os.kill(os.getppid(), 9)", "PermissionError"),
        ("import numpy", "ModuleNotFoundError"),
        ("input()", "EOFError"),
    ],
)
def test_what_fails_and_why(program: str, reason: str) -> None:
    assert run_sandboxed(program) == Verdict(False, reason)


def test_processor_time_ends() -> None:
    begin = time.process_time()
    assert run_sandboxed("while True: pass", seconds=1) == Verdict(False, "timeout")
    assert time.process_time() - begin < 1  # the parent only waits


def test_the_clock_ends_what_only_sleeps() -> None:
    begin = time.perf_counter()
    assert run_sandboxed("import time\nwhile True: time.sleep(60)", seconds=0.3) == Verdict(False, "timeout")
    assert time.perf_counter() - begin < 30


@pytest.mark.parametrize(
    "statement",
    [
        "open({path!r}, 'w').write('x')",
        "import os; os.mkdir({path!r})",
        "import pathlib; pathlib.Path({path!r}).touch()",
    ],
)
def test_nothing_is_written(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "made"
    assert run_sandboxed(statement.format(path=str(path))) == Verdict(False, "PermissionError")
    assert not path.exists()


def test_nothing_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("x")
    assert not run_sandboxed(f"import os; os.remove({str(path)!r})").passed
    assert path.read_text() == "x"


def test_solutions_of_humaneval(tmp_path: Path) -> None:
    pytest.importorskip("rouge_score")
    (sample,) = HUMANEVAL.read([write_lines(tmp_path / "h.jsonl", ADD)])
    right = HUMANEVAL.score(ADD["canonical_solution"], sample)
    assert right == {"pass_1": 1.0, "rouge_2": 1.0}
    assert HUMANEVAL.score("    return b + a\n", sample)["pass_1"] == 1
    assert HUMANEVAL.score("    return a - b\n", sample)["pass_1"] == 0
    assert HUMANEVAL.score("  this is no code", sample)["pass_1"] == 0
    assert HUMANEVAL.score("", sample)["pass_1"] == 0


def test_the_known_solutions_pass_and_empty_ones_fail() -> None:
    """Every fifth of the real file: none needs what the sandbox refuses."""
    path = reading.default_data() / "humaneval.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path}: set EDGESKIP_DATA")
    for sample in HUMANEVAL.read([path])[::5]:
        assert run_sandboxed(f"{sample.prompt}{sample.answers[0]}\n{sample.program}") == Verdict(True)
        assert not run_sandboxed(f"{sample.prompt}    return None\n{sample.program}").passed
