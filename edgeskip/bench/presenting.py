"""How a benchmark in progress and its end are shown: a bar and notes to stderr, the table to stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from edgeskip.bench.record import Cell, Failure, Sample
from edgeskip.bench.report.words import clean
from edgeskip.bench.rows import rows_of
from edgeskip.bench.run_bench import Listener
from edgeskip.bench.run_file import Run, as_json
from edgeskip.bench.table import as_csv, as_markdown, warnings_of
from edgeskip.terminal import Console, print_json

FORMATS = ("md", "json", "jsonl", "csv")


class Display:
    """Draws when told to, between measurements: a thread that draws would take a core from them."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress, self._console = progress, console
        self._task = progress.add_task("", total=None)

    def listener(self) -> Listener:
        """What the benchmark calls."""
        return Listener(note=self.note, state=self.state, at=self.at, recorded=self.recorded)

    def note(self, line: str) -> None:
        """Something worth a line of its own."""
        self._console.print(line, soft_wrap=True)

    def state(self, line: str) -> None:
        """What is going on now, in place of what was."""
        self._progress.update(self._task, description=line)
        self._progress.refresh()

    def at(self, done: int, total: int, cell: Cell, message: str) -> None:
        self._progress.update(self._task, completed=done, total=total, description=f"{cell.title}: {message}")
        self._progress.refresh()

    def recorded(self, line: Sample | Failure) -> None:
        if isinstance(line, Failure):
            self.note(clean(f"{line.cell.title} failed and is left out from here on: {line.message}", 2500))


@contextmanager
def display() -> Iterator[Display]:
    """Nothing moves where stderr is no terminal; notes are printed all the same."""
    console = Console(stderr=True, highlight=False, markup=False)
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    moving = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not moving, auto_refresh=False) as progress:
        yield Display(progress, console)


def print_run(run: Run, form: str) -> None:
    """The run on stdout, as md, json, jsonl or csv; what to beware of goes to stderr, in every form."""
    rows = rows_of(run)
    match form:
        case "json":
            print_json(as_json(run))
        case "jsonl":
            for record in run.lines:
                print(record.model_dump_json())
        case "csv":
            print(as_csv(run, rows), end="")
        case _:
            print(as_markdown(run, rows) + "\n" + "".join(f"\n{line}" for line in _losses(run)))
    sys.stdout.flush()
    for line in warnings_of(run):
        print(f"note: {line}", file=sys.stderr)


def _losses(run: Run) -> Iterator[str]:
    """What each target loses, in words, under the table."""
    for target in run.targets.values():
        quality = target.quality
        if quality is None:
            if target.label != "dense":
                yield f"{target.name}: {target.label}; its loss was not measured"
            continue
        line = f"{target.name}: {target.label}; perplexity {quality.perplexity:.2f} on {quality.text}"
        if quality.kl_divergence is not None and quality.top1_agreement is not None:
            line += (
                f", KL from {quality.reference} {quality.kl_divergence:.4f} nats, top-1 agreement "
                f"{quality.top1_agreement:.1%}"
            )
        yield line
