"""What a long job reports while it works: the callback of every function that takes `progress=`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


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
    """Let downloads in the block report to `progress`, which is not passed down to them; `silent` changes nothing."""
    token = _current.set(_current.get() if progress is silent else progress)
    try:
        yield
    finally:
        _current.reset(token)


def current_progress() -> Progress:
    """Return the callback of the function that is running; `silent` if it was given none."""
    return _current.get()
