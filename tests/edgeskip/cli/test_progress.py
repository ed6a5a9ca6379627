"""Progress without a terminal. Oracle: lines and times by hand over a fake clock; a real pipe and a real
pseudo-terminal with a notebook's environment."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from edgeskip.cli.progress import LineProgress, draws_bars, seconds_left
from edgeskip.core.progress import ProgressEvent, Steps


@dataclass
class FakeJob:
    """A progress over a clock that a test moves; keeps its lines."""

    now: float = 0.0
    lines: list[tuple[float, str]] = field(default_factory=list)

    def progress(self) -> LineProgress:
        return LineProgress(lambda line: self.lines.append((self.now, line)), lambda: self.now)


def test_a_long_job_says_how_far_it_is_every_ten_seconds() -> None:
    job = FakeJob()
    progress = job.progress()
    for done in range(0, 1001):  # 100 a second: ten seconds of 1,000 updates
        job.now = done / 100 * 4
        progress(ProgressEvent("prefill", 10 * done, 10_000, "tokens"))
    times = [when for when, _ in job.lines]
    assert times == [3.0, 13.0, 23.0, 33.0, 40.0]
    assert job.lines[0][1] == "prefill: 750 of 10,000 tokens (8%), 0:00:03 elapsed, 0:00:37 left"
    assert job.lines[-1][1] == "prefill: 10,000 of 10,000 tokens (100%), 0:00:40 elapsed"


def test_a_short_job_says_nothing() -> None:
    job = FakeJob()
    progress = job.progress()
    for done in range(5):
        job.now = done / 2
        progress(ProgressEvent("checking", done, 4))
    assert job.lines == []


def test_one_long_step_is_spoken_of_as_well() -> None:
    """400 s without an update: the watching thread ticks."""
    job = FakeJob()
    progress = job.progress()
    progress(ProgressEvent("export", 1, 12, detail="importance"))
    for second in range(400):
        job.now = float(second)
        progress.tick()
    assert len(job.lines) == 40
    assert job.lines[0] == (3.0, "export: 1 of 12 (8%), 0:00:03 elapsed, importance")


def test_many_short_phases_are_no_flood() -> None:
    job = FakeJob()
    progress = job.progress()
    for phase in range(100):
        job.now = phase / 5
        progress(ProgressEvent(f"phase {phase}", 0, 1))
        progress(ProgressEvent(f"phase {phase}", 1, 1))
    assert len(job.lines) <= 20 / 3 + 1


def test_another_phase_is_said_sooner() -> None:
    job = FakeJob()
    progress = job.progress()
    progress(ProgressEvent("loading the model", 0, None))
    for second in range(1, 9):
        job.now = float(second)
        progress.tick()
        if second == 4:
            progress(ProgressEvent("prefill", 0, 100))
    assert [when for when, _ in job.lines] == [3.0, 6.0]


def test_a_job_that_goes_on_does_not_count_what_was_there() -> None:
    """100 of 200 were done before; 10 more took 5 s, so 90 take 45 s."""
    job = FakeJob()
    progress = job.progress()
    progress(ProgressEvent("steps", 100, 200))
    job.now = 5.0
    progress(ProgressEvent("steps", 110, 200))
    assert job.lines == [(5.0, "steps: 110 of 200 (55%), 0:00:05 elapsed, 0:00:45 left")]


@pytest.mark.parametrize(
    ("new", "done", "total", "elapsed", "left"),
    [(0, 0, 10, 5, None), (5, 5, None, 5, None), (5, 5, 10, 5, 5), (10, 10, 10, 5, None), (5, 50, 100, 10, 100)],
)
def test_seconds_left(new: float, done: float, total: float | None, elapsed: float, left: float | None) -> None:
    assert seconds_left(new, done, total, elapsed) == left


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "bars"),
    [
        ({}, True),
        ({"TERM": "xterm-256color", "FORCE_COLOR": "1"}, True),
        ({"TERM": "dumb"}, False),
        ({"CI": "true"}, False),
        ({"JPY_PARENT_PID": "7", "TERM": "xterm-color", "FORCE_COLOR": "1"}, False),
        ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, False),
    ],
)
def test_where_bars_belong(environment: dict[str, str], bars: bool) -> None:
    assert draws_bars(_Terminal(), environment) is bars
    assert not draws_bars(io.StringIO(), environment)


JOB = """
import time
from edgeskip.cli.progress import progress_bar
from edgeskip.core.progress import ProgressEvent
with progress_bar(first_s=0.2, every_s=0.3) as bar:
    for done in range(41):
        bar(ProgressEvent("prefill", done, 40, "tokens"))
        time.sleep(0.02)
"""


def _environment(**more: str) -> dict[str, str]:
    mine = {"CI", "JPY_PARENT_PID", "MPLBACKEND", "FORCE_COLOR", "RANK"}
    return {name: value for name, value in os.environ.items() if name not in mine} | more


def test_a_pipe_gets_lines_and_no_frames() -> None:
    """FORCE_COLOR makes rich believe in a terminal: as a notebook and some CI set it."""
    command = [sys.executable, "-c", JOB]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(FORCE_COLOR="1"), timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert 2 <= len(lines) <= 6
    assert all(line.startswith("prefill: ") and "\x1b" not in line for line in lines)


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")
@pytest.mark.parametrize("notebook", [True, False])
def test_a_notebooks_terminal_gets_no_frames(notebook: bool) -> None:
    import pty

    leader, follower = pty.openpty()
    environment = _environment(JPY_PARENT_PID="1", TERM="xterm-color") if notebook else _environment(TERM="xterm")
    job = subprocess.Popen([sys.executable, "-c", JOB], stderr=follower, stdout=follower, env=environment)
    os.close(follower)
    text = "".join(_read(leader))
    assert job.wait(60) == 0
    assert ("\x1b[" in text) is not notebook


def test_a_notebooks_kernel_gets_tqdms_bar() -> None:
    """Oracle: tqdm's own form, in text because ipywidgets is hidden; told by IPython as a kernel tells it."""
    kernel = """
import sys, types
sys.modules["ipywidgets"] = None
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(config={"IPKernelApp": {}}))
"""
    command = [sys.executable, "-c", kernel + JOB]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(), timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\nprefill: 100%\|█+\| 40/40 \[\S+<00:00, +\S+ tokens/s\]", done.stderr)


def test_notes_do_not_tear_a_bar() -> None:
    """By hand: a note goes through the bar that is drawn, and straight to standard error after it."""
    code = """
from edgeskip.cli import messages
from edgeskip.cli.progress import progress_bar
from edgeskip.core.notes import note
messages.listen()
with progress_bar() as bar:
    bar.note = lambda line: print("through the bar:", line)
    messages.set_writer(bar.note)
    note("one")
note("two")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment(), timeout=60)
    assert done.stdout == "through the bar: edgeskip: note: one\n"
    assert done.stderr == "edgeskip: note: two\n"


def test_steps() -> None:
    """By hand: a step that begins leaves those before it done; one that ends is done."""
    events: list[ProgressEvent] = []
    steps = Steps(events.append, "exporting", 3)
    steps.begin("a")
    steps.begin("b")
    steps.end("c")
    steps.finish()
    assert [(event.done, event.detail) for event in events] == [(0, "a"), (1, "b"), (3, "c"), (3, "")]
    assert [event.fraction for event in events] == [0, 1 / 3, 1, 1]


def _read(descriptor: int) -> Iterator[str]:
    while True:
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # the other end is closed
            return
        if not data:
            return
        yield data.decode("utf-8", "replace")
