"""The one progress bar: rich's on a terminal, tqdm's in a notebook, a plain line every few seconds in pipes and CI."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import IO, TYPE_CHECKING, Any, Protocol

from edgeskip.cli import messages
from edgeskip.core.progress import ProgressEvent, reporting_to

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID

    from edgeskip.core.terminal import Console

FIRST_S, EVERY_S = 3.0, 10.0
"""Seconds until the first plain line, and between lines."""


class ProgressBar(Protocol):
    """Shows progress. Pass it as the `progress=` of any function of EdgeSkip."""

    def __call__(self, event: ProgressEvent, /) -> None:
        """Show how far the job is."""

    def note(self, line: str) -> None:
        """Print a line above the bar."""


@contextmanager
def progress_bar(
    *, refresh: bool = False, transient: bool = True, first_s: float = FIRST_S, every_s: float = EVERY_S
) -> Iterator[ProgressBar]:
    """Show progress on standard error, or in the notebook's cell, while the block runs.

    Notes that are printed meanwhile go above the bar. With `--quiet`, and in all processes of a torchrun but the first,
    nothing is shown.

    Args:
        refresh: Draw on each update only, not in a thread: a thread would disturb a measurement.
        transient: Remove the bars when the block ends.
        first_s: Seconds until the first plain line.
        every_s: Seconds between plain lines.

    Returns:
        A context that gives the bar: pass that as the `progress=` of any function.

    Example:
        >>> with edgeskip.progress_bar() as bar:
        ...     profile = edgeskip.calibrate("model", corpus="corpus.txt", tokens=64, context=32, decode_tokens=0,
        ...                                  progress=bar)
    """
    if messages.verbosity() is messages.Verbosity.QUIET or os.environ.get("RANK", "0") != "0":
        yield _NoBar()
        return
    if in_notebook_kernel():
        shown: Any = _notebook(transient)
    elif draws_bars(sys.stderr, os.environ):
        from edgeskip.core.terminal import Console

        shown = _rich(Console(stderr=True), refresh=refresh, transient=transient)
    else:
        shown = _lines(first_s, every_s)
    with shown as bar, reporting_to(bar):
        messages.set_writer(bar.note)
        try:
            yield bar
        finally:
            messages.set_writer(None)


class _NoBar:
    def __call__(self, event: ProgressEvent, /) -> None:
        pass

    def note(self, line: str) -> None:
        pass


def in_notebook_kernel() -> bool:
    """Return whether this process is the kernel of a notebook, whose cells can show widgets."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = get_ipython() if get_ipython is not None else None
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})


def draws_bars(stream: IO[str], environment: Mapping[str, str]) -> bool:
    """Return whether bars that redraw themselves belong on `stream`: a person's terminal, not a notebook, not CI.

    A notebook's `!command` runs in a terminal too, but shows every frame; its kernel leaves its marks in the
    environment. FORCE_COLOR, which rich takes for a terminal, says nothing about redrawing.
    """
    notebook = "JPY_PARENT_PID" in environment or "matplotlib_inline" in environment.get("MPLBACKEND", "")
    notebook = notebook or "ipykernel" in sys.modules or "COLAB_RELEASE_TAG" in environment
    plain = environment.get("TERM") in ("dumb", "unknown") or bool(environment.get("CI"))
    try:
        return stream.isatty() and not (notebook or plain)
    except (ValueError, AttributeError):  # closed, or none: pythonw
        return False


@dataclass
class _Stage:
    began: float
    at_start: float  # what was done when it was first reported: a resumed job did not do that now
    now: ProgressEvent
    printed: bool = False


@dataclass
class LineProgress:
    """Plain lines: the first after `first_s` seconds, then one every `every_s`.

    Another stage gets its line sooner, after `first_s`; a stage that got one gets another when it ends. `write` gets
    each line, `clock` gives seconds.
    """

    write: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    first_s: float = FIRST_S
    every_s: float = EVERY_S
    _stages: dict[str, _Stage] = field(default_factory=dict)
    _current: str | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._began = self.clock()
        self._next, self._last = self._began + self.first_s, self._began

    def __call__(self, event: ProgressEvent, /) -> None:
        key = event.stage
        with self._lock:
            if key not in self._stages:
                self._stages[key] = _Stage(self.clock(), event.done, event)
                self._next = min(self._next, self._last + self.first_s)
            stage = self._stages[key]
            stage.now, self._current = event, key
            if stage.printed and event.total is not None and event.done >= event.total:
                if self.clock() - self._last >= 1.0:
                    self._print(stage)
                stage.printed = False
            self.tick()

    def note(self, line: str) -> None:
        with self._lock:
            self.write(line)

    def tick(self) -> None:
        """Print a line if one is due."""
        with self._lock:
            if self._current is None or self.clock() < self._next:
                return
            stage = self._stages[self._current]
            stage.printed = True
            self._print(stage)

    def _print(self, stage: _Stage) -> None:
        now = self.clock()
        self._next, self._last = now + self.every_s, now
        event, elapsed = stage.now, now - stage.began
        parts = [part for part in (amount(event),) if part]
        parts.append(f"{_time(elapsed)} elapsed")
        left = seconds_left(event.done - stage.at_start, event.done, event.total, elapsed)
        if left is not None:
            parts.append(f"{_time(left)} left")
        if event.detail:
            parts.append(event.detail)
        self.write(f"{event.stage}: {', '.join(parts)}")


@contextmanager
def _lines(first_s: float, every_s: float) -> Iterator[LineProgress]:
    """Plain lines on standard error; a thread prints one when the job itself reports nothing for long."""
    lines = LineProgress(_write_line, first_s=first_s, every_s=every_s)
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


@dataclass
class _RichBar:
    """A bar for each stage."""

    bars: RichBars
    refresh: bool
    _tasks: dict[str, TaskID] = field(default_factory=dict)

    def __call__(self, event: ProgressEvent, /) -> None:
        fields: dict[str, Any] = {"detail": event.detail, "amount": amount(event, share=False)}
        if event.stage not in self._tasks:
            self._tasks[event.stage] = self.bars.add_task(event.stage, total=event.total, **fields)
        task = self._tasks[event.stage]
        self.bars.update(task, completed=event.done, total=event.total, **fields)
        if self.refresh:
            self.bars.refresh()

    def note(self, line: str) -> None:
        self.bars.console.print(line, soft_wrap=True, markup=False, highlight=False)


@contextmanager
def _rich(console: Console, *, refresh: bool, transient: bool) -> Iterator[_RichBar]:
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichBars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    with RichBars(*columns, console=console, transient=transient, auto_refresh=not refresh) as bars:
        yield _RichBar(bars, refresh)


@dataclass
class _NotebookBar:
    """tqdm's bars: widgets if ipywidgets is installed, else text."""

    make: Callable[..., Any]
    transient: bool
    bars: dict[str, Any] = field(default_factory=dict)

    def __call__(self, event: ProgressEvent, /) -> None:
        bar = self.bars.get(event.stage)
        if bar is None:
            bar = self.bars[event.stage] = self.make(
                total=event.total, desc=event.stage, unit=f" {event.unit or 'steps'}", leave=not self.transient
            )
        bar.total, bar.n = event.total, event.done
        bar.set_postfix_str(event.detail, refresh=False)
        bar.refresh()

    def note(self, line: str) -> None:
        print(line, file=sys.stderr)


@contextmanager
def _notebook(transient: bool) -> Iterator[ProgressBar]:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that ipywidgets is missing: the text form does as well
            from tqdm.auto import tqdm
    except ImportError:
        with _lines(FIRST_S, EVERY_S) as lines:
            yield lines
        return
    shown = _NotebookBar(tqdm, transient)
    try:
        yield shown
    finally:
        for bar in shown.bars.values():
            bar.close()


def seconds_left(new: float, done: float, total: float | None, elapsed: float) -> float | None:
    """Return the seconds left at the pace of `new` units in `elapsed` seconds; None if there is no pace yet."""
    if total is None or new <= 0 or done >= total or elapsed <= 0:
        return None
    return (total - done) * elapsed / new


def amount(event: ProgressEvent, *, share: bool = True) -> str:
    """Return `3,072 of 16,384 tokens (19%)`; an empty text if nothing is known."""
    unit = f" {event.unit}" if event.unit else ""
    if event.total is None:
        return f"{event.done:,.0f}{unit}" if event.done else ""
    percent = f" ({event.fraction:.0%})" if share and event.total else ""
    return f"{event.done:,.0f} of {event.total:,.0f}{unit}{percent}"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _write_line(line: str) -> None:
    with suppress(OSError, ValueError):  # closed: the work goes on
        print(line, file=sys.stderr, flush=True)
