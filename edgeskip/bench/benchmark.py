"""A whole benchmark: open the devices, measure what the targets lose, run the rounds, serve the page, keep the log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from edgeskip.bench.analysis.formatting import sanitize
from edgeskip.bench.analysis.rows import MeasureRow, rows_of
from edgeskip.bench.config import BenchConfig
from edgeskip.bench.devices.options import SILENCE_S, DeviceOptions, DeviceRun, open_devices
from edgeskip.bench.devices.web.serve_config import ServeOptions
from edgeskip.bench.grid import cells_of, reference_of
from edgeskip.bench.runner.process import CHILD, run_worker
from edgeskip.bench.runner.quality import QualityRequest
from edgeskip.bench.runner.roofline import merge_rooflines
from edgeskip.bench.runner.run_file import BenchRun, RunLog, refuse_log
from edgeskip.bench.runner.schedule import Job, run_rounds
from edgeskip.bench.schema import BenchCell, QualityResult, RoundFailure, RoundResult
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.held_out import HELD_OUT_TEXT
from edgeskip.core.progress import Progress, ProgressEvent, silent
from edgeskip.runtime.engines.threads import most_threads


@dataclass(frozen=True)
class BenchResult:
    """What a benchmark measured.

    Attributes:
        run: Every record: targets, devices, rounds and failures.
        log: The JSONL file that holds them; None if none was asked for.
        interrupted: Whether Ctrl-C ended the benchmark early.
        error: What ended it early, if anything did; what was measured before is in `run`.
    """

    run: BenchRun
    log: Path | None = None
    interrupted: bool = False
    error: EdgeSkipError | None = None

    @property
    def rows(self) -> list[MeasureRow]:
        """The table: a row for each measure of each cell."""
        return rows_of(self.run)


@dataclass
class Reporter:
    """Passes on how far a benchmark is (`progress`), and lines worth keeping (`note`)."""

    progress: Progress = silent
    note: Callable[[str], None] = lambda line: None
    _done: tuple[int, int | None] = field(default=(0, None), init=False)

    def status(self, message: str) -> None:
        """Report what is going on now."""
        self.progress(ProgressEvent("measuring", *self._done, detail=message))

    def round(self, done: int, total: int, cell: BenchCell, message: str) -> None:
        """Report that `done` of `total` rounds are done, and what `cell` is doing."""
        self._done = done, total
        self.status(f"{cell.title}: {message}")


def run_benchmark(
    config: BenchConfig,
    devices: DeviceOptions | None = None,
    *,
    serve: ServeOptions | None = None,
    quality: Path | None = HELD_OUT_TEXT,
    log: Path | None = None,
    progress: Progress = silent,
    note: Callable[[str], None] = lambda line: None,
) -> BenchResult:
    """Measure targets on every device asked for, without printing anything.

    Args:
        config: What to measure, from `BenchConfig.from_args`.
        devices: Where to measure; by default on this machine.
        serve: After the rounds, serve a page that measures whatever browser opens it, until Ctrl-C or until as many
            devices are done as it says.
        quality: Text on which each target's loss is measured; None = leave it unmeasured.
        log: JSONL file that every record is appended to at once; it must not exist yet.
        progress: Called with how far the benchmark is.
        note: Called with each line worth keeping: what was left out, what failed, where the page is.

    Returns:
        Everything that was measured, also after Ctrl-C and after an error that stops the benchmark in the middle.

    Raises:
        EdgeSkipError: If the options make no sense or a device cannot be opened: before anything is measured.
    """
    devices = devices or DeviceOptions()
    if log is not None:
        refuse_log(log)
    devices.check(config)
    if serve is not None:
        serve.check(config)
    reporter = Reporter(progress, note)
    interrupted, stopped = False, None
    with ExitStack() as stack:
        runs = open_devices(config, devices, stack, reporter.status)
        if not runs and serve is None:
            raise EdgeSkipError(
                "--no-local leaves no device; add one, e.g. --remote user@host, or use  edgeskip bench serve"
            )
        jobs = plan_jobs(config, runs, reporter)
        kept = RunLog(config.header, log)
        for target in config.targets:
            kept.add(target)
        try:
            if quality is not None:
                measure_qualities(config, quality, kept, reporter)
            run_jobs(config, jobs, kept, reporter)
            if serve is not None:
                from edgeskip.bench.devices.web.serve import serve_phones

                serve_phones(config, serve, kept, note)
        except KeyboardInterrupt:
            interrupted = True
        except EdgeSkipError as error:
            stopped = error
    return BenchResult(kept.run, log, interrupted, stopped)


def plan_jobs(config: BenchConfig, runs: Sequence[DeviceRun], reporter: Reporter) -> list[Job]:
    """Return every cell of every device, artifacts copied there. Raises EdgeSkipError if nothing is left to measure."""
    jobs = []
    for run in runs:
        cells, skipped = cells_of(config.targets, run.grid, run.launcher.device.id)
        for line in skipped:
            reporter.note(line)
        cells = [cell for cell in cells if config.round_spec.measures(cell)]
        paths = {target.name: Path(target.path) for target in config.targets}
        copied = {
            name: run.launcher.prepare(paths[name], reporter.status)
            for name in dict.fromkeys(cell.target for cell in cells)
        }
        jobs += [Job(cell, run.launcher, copied[cell.target]) for cell in cells]
    if runs and not jobs:
        raise EdgeSkipError("nothing is left to measure: ask for prompts, or for -p or -n with the strategy plain")
    return jobs


def run_jobs(config: BenchConfig, jobs: Sequence[Job], log: RunLog, reporter: Reporter) -> None:
    """Add devices and rounds to `log` as they come, then the rooflines of the devices, measured once more."""
    for device in {job.launcher.device.id: job.launcher.device for job in jobs}.values():
        log.add(device)

    def record(line: RoundResult | RoundFailure) -> None:
        log.add(line)
        if isinstance(line, RoundFailure):
            reporter.note(sanitize(f"{line.cell.title} failed and is left out from here on: {line.message}", 2500))

    run_rounds(jobs, config.round_spec, config.settings.rounds, record, reporter.round)
    for launcher in {id(job.launcher): job.launcher for job in jobs}.values():
        reporter.status(f"measuring the roofline of {launcher.device.id} again")
        try:
            again = launcher.rooflines_again(reporter.status)
        except EdgeSkipError as error:
            reporter.note(f"could not measure the roofline of {launcher.device.id} again: {error}")
            continue
        if again:
            log.add(merge_rooflines(launcher.device, again))


def measure_qualities(config: BenchConfig, text: Path, log: RunLog, reporter: Reporter) -> None:
    """Add every target with its quality, measured here; note why if it cannot be measured."""
    for target in config.targets:
        reporter.status(f"{target.name}: measuring quality")
        reference = reference_of(target, config.targets, config.settings.baselines)
        request = QualityRequest(
            path=target.path,
            text=str(text),
            reference=None if reference is None else reference.path,
            reference_name=None if reference is None else reference.name,
            threads=min(max(config.grid.threads), most_threads()),  # those may be another device's
        )
        try:
            answer = run_worker([sys.executable, "-P", "-m", CHILD, "--quality"], request, SILENCE_S)
        except EdgeSkipError as error:
            reporter.note(f"could not measure the quality of {target.name}: {error}")
            continue
        log.add(target.model_copy(update={"quality": QualityResult.model_validate(answer)}))
