"""Run the child of a self-test over all its cases; a case that ends the process is recorded, the others still run."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from edgeskip.core.child_exit import MemoryWatch, how_it_ended, signal_name
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.native_child import module_command, run_child
from edgeskip.runtime.engines.self_test_cache import Failures

LIMIT_S = 120.0  # for all that the child does: it takes one second, ten if the machine is busy
# What a defect in native code ends a process by. Anything else (SIGKILL, SIGTERM) came from outside and says nothing.
CRASHES = ("SIGSEGV", "SIGILL", "SIGBUS", "SIGABRT", "SIGFPE", "SIGTRAP", "SIGSYS")
WRONG = "wrong"
"""The answer for a case whose result was not what it had to be; else it is the name of a signal."""


def run_cases(module: str, cases: Sequence[str], what: str) -> Failures | None:
    """Return what went wrong with `python -m module CASES`, by case; {} = nothing, None = no child can be started.

    The child prints `run CASE` before each case, and `ok CASE` or `bad CASE …` after it. If a case ends it, it is run
    again with `--apart`: it may then run each case in a separate process, and print `died CASE SIGNAL`.

    Args:
        module: The child's.
        cases: What to run, by name.
        what: What the child tests, for errors.

    Raises:
        EdgeSkipError: If the child reports an error, was ended from outside or takes too long; nothing is known then.
    """
    answer: Failures = {}
    left, arguments = list(cases), list[str]()
    while True:
        watch = MemoryWatch()
        command = module_command(module, *arguments, *left)
        if command is None:
            return None
        code, lines, errors = _run(command, what)
        running = None
        for line in lines:
            word, _, rest = line.partition(" ")
            case = rest.partition(" ")[0]
            if word == "run":
                running = case
            elif word == "error":
                raise EdgeSkipError(rest)
            elif word in ("ok", "bad", "died"):
                running = None
                if word != "ok":
                    answer[case] = WRONG if word == "bad" else rest.partition(" ")[2]
        if code == 0:
            return answer
        name = signal_name(code)
        if name is None and not any(line.startswith("run ") for line in lines):
            return None
        if name is None:
            said = errors[-1][:200] if errors else "it does not say why"
            raise EdgeSkipError(f"the self-test of {what} failed ({said}): install {what} again")
        if name not in CRASHES or running is None or watch.evidence():
            raise EdgeSkipError(f"the self-test of {what} {how_it_ended(code, watch)}; try again")
        answer[running] = name
        if running not in left:  # what comes before all cases
            return answer
        left = left[left.index(running) + 1 :]
        if not left:
            return answer
        arguments = ["--apart"]


def _run(command: Sequence[str], what: str) -> tuple[int, list[str], list[str]]:
    try:
        done = run_child(command, LIMIT_S)
    except subprocess.TimeoutExpired:
        raise EdgeSkipError(f"the self-test of {what} took longer than {LIMIT_S:.0f} s: try again") from None
    except OSError as error:
        raise EdgeSkipError(f"the self-test of {what} cannot be started ({error}): try again") from None
    return done.returncode, done.stdout.splitlines(), [line for line in done.stderr.splitlines() if line.strip()]
