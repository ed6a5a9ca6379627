"""How a benchmark in progress and its end are shown: a bar and notes to stderr, the table to stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from edgeskip.bench.analysis.formatting import sanitize
from edgeskip.bench.analysis.rows import rows_of
from edgeskip.bench.analysis.table import as_csv, as_markdown, warnings_of
from edgeskip.bench.runner.run import BenchListener
from edgeskip.bench.runner.run_file import BenchRun, as_json
from edgeskip.bench.schema import BenchCell, RoundFailure, RoundResult
from edgeskip.core.progress import ProgressDisplay, progress_display
from edgeskip.core.terminal import print_json

FORMATS = ("md", "json", "jsonl", "csv")


class Display:
    """Shows a benchmark as it goes. On a terminal it draws when told to, between measurements."""

    def __init__(self, shown: ProgressDisplay) -> None:
        self._shown = shown
        self._done: tuple[int, int | None] = 0, None

    def listener(self) -> BenchListener:
        """What the benchmark calls."""
        return BenchListener(note=self.note, state=self.state, at=self.at, recorded=self.recorded)

    def note(self, line: str) -> None:
        """Something worth a line of its own."""
        self._shown.note(line)

    def state(self, line: str) -> None:
        """What is going on now, in place of what was."""
        self._shown.update("measuring", *self._done, line)

    def at(self, done: int, total: int, cell: BenchCell, message: str) -> None:
        self._done = done, total
        self._shown.update("measuring", done, total, f"{cell.title}: {message}")

    def recorded(self, line: RoundResult | RoundFailure) -> None:
        if isinstance(line, RoundFailure):
            self.note(sanitize(f"{line.cell.title} failed and is left out from here on: {line.message}", 2500))


@contextmanager
def display() -> Iterator[Display]:
    """On stderr: a bar on a terminal, elsewhere a line every few seconds; notes either way."""
    with progress_display(refresh=True) as shown:
        yield Display(shown)


def print_run(run: BenchRun, form: str) -> None:
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


def _losses(run: BenchRun) -> Iterator[str]:
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
