"""What a long job reports while it works: the callback of every function that takes `progress=`."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import IO, TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from edgeskip.core.terminal import Console


@dataclass(frozen=True)
class ProgressEvent:
    """How far a long job is: what a `Progress` callback gets, many times a job.

    Attributes:
        stage: What is being done, e.g. `prefill`; stages follow each other, and may overlap.
        done: Units of the stage that are done.
        total: Units of the stage in all; None if that is not known (yet).
        unit: What is counted, e.g. `tokens`; empty for plain steps.
        detail: A few words about this moment, e.g. the losses of a training step; may be empty.

    Example:
        >>> edgeskip.ProgressEvent("prefill", done=512, total=2048, unit="tokens").fraction
        0.25
    """

    stage: str
    done: float = 0
    total: float | None = None
    unit: str = ""
    detail: str = ""

    @property
    def fraction(self) -> float:
        """The share of the stage that is done, 0 to 1; 0 if the total is not known."""
        return min(self.done / self.total, 1.0) if self.total else 0.0


Progress = Callable[[ProgressEvent], None]
"""What a caller of the library passes to see how far a job is. It is called from the thread that does the work."""


def silent(event: ProgressEvent) -> None:
    """Show nothing: the default of every `progress` parameter."""


@dataclass
class Steps:
    """Count the steps of a stage and report each.

    Args:
        report: The caller's callback.
        stage: What the steps are of.
        total: How many there are; None if it is not known.
        unit: What is counted; empty for plain steps.
    """

    report: Progress
    stage: str
    total: float | None = None
    unit: str = ""
    done: int = field(default=0, init=False)

    def begin(self, detail: str = "") -> None:
        """Report a step that starts now; it counts as done when the next one begins."""
        self.report(ProgressEvent(self.stage, self.done, self.total, self.unit, detail))
        self.done += 1

    def end(self, detail: str = "") -> None:
        """Report a step that is done."""
        self.done += 1
        self.report(ProgressEvent(self.stage, self.done, self.total, self.unit, detail))

    def finish(self) -> None:
        """Report that every step is done."""
        self.report(ProgressEvent(self.stage, self.done if self.total is None else self.total, self.total, self.unit))


_current: ContextVar[Progress] = ContextVar("progress", default=silent)


@contextmanager
def reporting_to(progress: Progress) -> Iterator[None]:
    """Let what runs in the block report to `progress`, also where no callback is passed down to: downloads."""
    token = _current.set(progress)
    try:
        yield
    finally:
        _current.reset(token)


def current_progress() -> Progress:
    """Return the callback of the function that is running; `silent` if it was given none."""
    return _current.get()


# The display: goes to edgeskip/cli/progress.py as soon as its last caller passes a callback.
FIRST_S, EVERY_S = 3.0, 10.0
"""Seconds until the first plain line, and between lines."""
Write = Callable[[str], None]


class ProgressDisplay(Protocol):
    """What a job tells how far it is."""

    def update(self, name: str, done: float, total: float | None, detail: str = "") -> None:
        """The phase `name` (what comes after a colon in it is detail) has done so much; `total` None = not known."""

    def note(self, line: str) -> None:
        """Print a line of its own, now."""


@dataclass
class _Phase:
    began: float
    at_start: float  # what was done when it was first heard of: a job that goes on did not do that now
    done: float
    total: float | None
    text: str
    said: bool = False


@dataclass
class LineProgress:
    """Plain lines: the first `first_s` seconds after the start, then one every `every_s`.

    Another phase is spoken of sooner, after `first_s`; a phase that was spoken of says when it ends. `write` gets each
    line, `clock` gives seconds.
    """

    write: Write
    unit: str = ""
    clock: Callable[[], float] = time.monotonic
    first_s: float = FIRST_S
    every_s: float = EVERY_S
    _phases: dict[str, _Phase] = field(default_factory=dict)
    _current: str | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._began = self.clock()
        self._next, self._last = self._began + self.first_s, self._began

    def update(self, name: str, done: float, total: float | None, detail: str = "") -> None:
        key, _, more = name.partition(":")
        text = ", ".join(part for part in (more.strip(), detail) if part)
        with self._lock:
            if key not in self._phases:
                self._phases[key] = _Phase(self.clock(), done, done, total, text)
                self._next = min(self._next, self._last + self.first_s)  # something new is said sooner
            phase = self._phases[key]
            phase.done, phase.total, phase.text = done, total, text
            self._current = key
            if phase.said and total is not None and done >= total:
                if self.clock() - self._last >= 1.0:
                    self._say(key)
                phase.said = False
            self.tick()

    def note(self, line: str) -> None:
        with self._lock:
            self.write(line)

    def tick(self) -> None:
        """Print a line if one is due."""
        with self._lock:
            if self._current is None or self.clock() < self._next:
                return
            self._phases[self._current].said = True
            self._say(self._current)

    def _say(self, key: str) -> None:
        now = self.clock()
        self._next, self._last = now + self.every_s, now
        phase = self._phases[key]
        parts = [part for part in (_amount(phase.done, phase.total, self.unit),) if part]
        parts.append(f"{_time(now - phase.began)} elapsed")
        if (left := seconds_left(phase.done - phase.at_start, phase.done, phase.total, now - phase.began)) is not None:
            parts.append(f"{_time(left)} left")
        if phase.text:
            parts.append(phase.text)
        self.write(f"{key}: {', '.join(parts)}")


def seconds_left(new: float, done: float, total: float | None, elapsed: float) -> float | None:
    """Time left at the pace of `new` units in `elapsed` seconds; None if that cannot be told yet."""
    if total is None or new <= 0 or done >= total or elapsed <= 0:
        return None
    return (total - done) * elapsed / new


@dataclass
class BarProgress:
    """A bar for each phase. `refresh`: draw on each update, not in a thread, which would disturb a measurement."""

    bars: RichProgress
    refresh: bool
    _tasks: dict[str, TaskID] = field(default_factory=dict)

    def update(self, name: str, done: float, total: float | None, detail: str = "") -> None:
        key = name.partition(":")[0]
        if key not in self._tasks:
            self._tasks[key] = self.bars.add_task(name, total=total, detail=detail)
        self.bars.update(self._tasks[key], description=name, completed=done, total=total, detail=detail)
        if self.refresh:
            self.bars.refresh()

    def note(self, line: str) -> None:
        self.bars.console.print(line, soft_wrap=True, markup=False, highlight=False)


class NoProgress:
    """Nothing is shown: another process of a torchrun does."""

    def update(self, name: str, done: float, total: float | None, detail: str = "") -> None:
        pass

    def note(self, line: str) -> None:
        pass


@contextmanager
def progress_display(
    *,
    unit: str = "",
    quiet: bool = False,
    refresh: bool = False,
    transient: bool = True,
    first_s: float = FIRST_S,
    every_s: float = EVERY_S,
) -> Iterator[ProgressDisplay]:
    """What a command shows on stderr while it works. `unit` is what is counted, e.g. tokens; `refresh` see BarProgress.

    Of several processes of a torchrun only the first shows anything. `first_s` and `every_s` are LineProgress's.
    """
    if quiet or os.environ.get("RANK", "0") != "0":
        yield NoProgress()
    elif draws_bars(sys.stderr, os.environ):
        from edgeskip.core.terminal import Console

        with _bars(Console(stderr=True), unit, refresh=refresh, transient=transient) as bars:
            yield BarProgress(bars, refresh)
    else:
        lines = LineProgress(_write_line, unit, first_s=first_s, every_s=every_s)
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(first_s):
                lines.tick()

        thread = threading.Thread(target=watch, name="edgeskip-progress", daemon=True)
        thread.start()
        try:
            yield lines
        finally:
            stop.set()
            thread.join()


def draws_bars(stream: IO[str], environment: Mapping[str, str]) -> bool:
    """Whether bars that redraw themselves belong on `stream`: a person's terminal, no notebook and no CI.

    A notebook's `!command` runs in a terminal too, but shows every frame; its kernel leaves its marks in the
    environment. FORCE_COLOR, which rich takes for a terminal, says nothing of redrawing.
    """
    notebook = "JPY_PARENT_PID" in environment or "matplotlib_inline" in environment.get("MPLBACKEND", "")
    notebook = notebook or "ipykernel" in sys.modules or "COLAB_RELEASE_TAG" in environment
    plain = environment.get("TERM") in ("dumb", "unknown") or bool(environment.get("CI"))
    try:
        return stream.isatty() and not (notebook or plain)
    except (ValueError, AttributeError):  # closed, or none: pythonw
        return False


def _bars(console: Console, unit: str, *, refresh: bool, transient: bool) -> RichProgress:
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining
    from rich.text import Text

    class Amount(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(_amount(task.completed, task.total, unit, share=False))

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(20), Amount(), TimeElapsedColumn(),
        Remaining(), TextColumn("{task.fields[detail]}", markup=False),
    )  # fmt: skip
    return Progress(*columns, console=console, transient=transient, auto_refresh=not refresh)


def _amount(done: float, total: float | None, unit: str, *, share: bool = True) -> str:
    """`3,072 of 16,384 tokens (19 %)`; empty if nothing is known."""
    after = f" {unit}" if unit else ""
    if total is None:
        return f"{done:,.0f}{after}" if done else ""
    percent = f" ({min(done / total, 1):.0%})" if share and total else ""
    return f"{done:,.0f} of {total:,.0f}{after}{percent}"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _write_line(line: str) -> None:
    with suppress(OSError, ValueError):  # closed: the work goes on
        print(line, file=sys.stderr, flush=True)
