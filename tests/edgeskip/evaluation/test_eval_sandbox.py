"""Code in the sandbox: what it may not do, and what it may. Oracle: the missing file, the clock, the verdict."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from eval_material import ADD, write_lines

from edgeskip.evaluation import confinement, sandbox
from edgeskip.evaluation import datasets as reading
from edgeskip.evaluation.humaneval import HUMANEVAL
from edgeskip.evaluation.sandbox import Verdict, layers_here, run_sandboxed

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


# Ways around the audit events, each of which writes a file at PATH or starts a program that does.
EXTENSION = """
import _imp, glob, importlib.machinery, os, sys
folder = next(path for path in sys.path if path.endswith("lib-dynload"))
spec = importlib.machinery.ModuleSpec("NAME", None, origin=glob.glob(folder + "/NAME.*.so")[0])
module = _imp.create_dynamic(spec)
"""
PROCESS = (
    EXTENSION.replace("NAME", "_posixsubprocess")
    + """
r, w = os.pipe()
module.fork_exec([b"/bin/sh", b"-c", b"touch PATH"], [b"/bin/sh"], True, (), None, None, -1, -1, -1, -1, -1, -1, r, w,
                 False, False, -1, None, None, None, -1, None, False)
import time; time.sleep(0.5)
"""
)
WRITERS = {
    "mkfifo": "import os; os.mkfifo('PATH')",
    "mknod": "import os; os.mknod('PATH')",
    "sqlite": "import sqlite3; sqlite3.connect('PATH').execute('create table t(a)')",
    "_sqlite3": "import _sqlite3; _sqlite3.connect('PATH').execute('create table t(a)')",
    "readline": "import readline; readline.write_history_file('PATH')",
    "dbm": "import dbm.gnu; dbm.gnu.open('PATH', 'c')",
    "create_dynamic": PROCESS,
}


@pytest.mark.parametrize("bubblewrap", [True, False])
@pytest.mark.parametrize("way", WRITERS)
def test_no_way_around_makes_a_file(
    way: str, bubblewrap: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the missing file, with and without bubblewrap."""
    if "Landlock" not in layers_here() and not (bubblewrap and "bubblewrap" in layers_here()):
        pytest.skip("this kernel has neither")
    if not bubblewrap:
        monkeypatch.setattr(sandbox, "_bubblewrap", lambda: None)
    made = tmp_path / "made"
    assert not run_sandboxed(WRITERS[way].replace("PATH", str(made)), seconds=5).passed
    assert not made.exists()


def test_what_is_written_to_other_descriptors_costs_the_parent_nothing() -> None:
    """Oracle: the resident memory of the process that asked (3 GB on descriptor 3 used to cost it 9 GB)."""
    program = """
import sys
from resource import RUSAGE_SELF, getrusage
from edgeskip.evaluation.sandbox import run_sandboxed
before = getrusage(RUSAGE_SELF).ru_maxrss
flood = "import os\\nblock = b'x' * (1 << 20)\\nfor _ in range(3 << 10): os.write(3, block)"
verdict = run_sandboxed(flood)
print(verdict.passed, getrusage(RUSAGE_SELF).ru_maxrss - before < 100_000)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


KERNEL_ALONE = f"""
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("confinement", {confinement.__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
layers = module.confine(sys.argv[1] or None)
def refused(call, *arguments):
    try:
        call(*arguments)
    except PermissionError:
        return True
    return False
def fork():
    if os.fork() == 0:
        os._exit(0)
import socket
path = sys.argv[2]
print(",".join(layers), refused(os.mkfifo, path), refused(open, path, "w"), refused(os.execv, "/bin/true", ["true"]),
      refused(fork), refused(socket.socket), refused(os.kill, os.getppid(), 0), open("/proc/self/stat").read() != "")
"""


@pytest.mark.parametrize("layer", ["Landlock", "seccomp"])
def test_the_kernel_alone(layer: str, tmp_path: Path) -> None:
    """Each layer without the audit hooks. Oracle: what the kernel answers to the calls themselves."""
    if layer not in layers_here():
        pytest.skip(f"no {layer} here")
    pyseccomp = sandbox._pyseccomp() if layer == "seccomp" else ""
    command = [sys.executable, "-c", KERNEL_ALONE, str(pyseccomp), str(tmp_path / "made")]
    answers = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    if layer == "Landlock":
        assert answers[:4] == ["Landlock", "True", "True", "True"]
    else:
        assert "seccomp" in answers[0]
        assert answers[3:7] == ["True"] * 4
    assert answers[-1] == "True"  # reading goes on
    assert not (tmp_path / "made").exists()


def test_the_layers_are_reported() -> None:
    """Oracle: the kernel's own word on Landlock; resource limits are everywhere."""
    assert layers_here()[-1] == "resource limits"
    lsm = Path("/sys/kernel/security/lsm")
    if lsm.is_file() and "landlock" in lsm.read_text():
        assert "Landlock" in layers_here()
