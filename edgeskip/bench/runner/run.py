"""A whole benchmark: measures what the targets lose, runs the rounds on every device, keeps the log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeskip.bench.config import BenchConfig
from edgeskip.bench.grid import Grid, cells_of, reference_of
from edgeskip.bench.runner.ceilings import merge_rooflines
from edgeskip.bench.runner.launcher import Launcher
from edgeskip.bench.runner.process import CHILD, run_worker
from edgeskip.bench.runner.quality import QualityRequest
from edgeskip.bench.runner.run_file import RunLog
from edgeskip.bench.runner.schedule import Job, run_rounds
from edgeskip.bench.schema import BenchCell, QualityResult, RoundFailure, RoundResult
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.threads import most_threads

SILENCE_S = 1800.0
"""How long a process that measures may say nothing."""


@dataclass(frozen=True)
class DeviceRun:
    """A device and what is asked of it."""

    launcher: Launcher
    grid: Grid


@dataclass(frozen=True)
class BenchListener:
    """Who is told what goes on: a line worth keeping, what is going on now, where the rounds are."""

    note: Callable[[str], None]
    state: Callable[[str], None]
    at: Callable[[int, int, BenchCell, str], None]
    recorded: Callable[[RoundResult | RoundFailure], None]


def plan_jobs(config: BenchConfig, devices: Sequence[DeviceRun], listener: BenchListener) -> list[Job]:
    """Every cell of every device, the artifacts brought there. EdgeSkipError where nothing is left to measure."""
    jobs = []
    for run in devices:
        cells, left_out = cells_of(config.targets, run.grid, run.launcher.device.id)
        for line in left_out:
            listener.note(line)
        cells = [cell for cell in cells if config.round_spec.measures(cell)]
        paths = {target.name: Path(target.path) for target in config.targets}
        brought = {
            name: run.launcher.prepare(paths[name], listener.state)
            for name in dict.fromkeys(cell.target for cell in cells)
        }
        jobs += [Job(cell, run.launcher, brought[cell.target]) for cell in cells]
    if devices and not jobs:
        raise EdgeSkipError("nothing is left to measure: ask for prompts, or for -p or -n with the strategy plain")
    return jobs


def run_jobs(config: BenchConfig, jobs: Sequence[Job], log: RunLog, listener: BenchListener) -> None:
    """Adds devices and samples to `log`, as they come."""
    for device in {job.launcher.device.id: job.launcher.device for job in jobs}.values():
        log.add(device)

    def record(line: RoundResult | RoundFailure) -> None:
        log.add(line)
        listener.recorded(line)

    run_rounds(jobs, config.round_spec, config.settings.rounds, record, listener.at)
    for launcher in {id(job.launcher): job.launcher for job in jobs}.values():
        listener.state(f"measuring again what {launcher.device.id} gives")
        try:
            again = launcher.rooflines_again(listener.state)
        except EdgeSkipError as error:
            listener.note(f"what {launcher.device.id} gives was not measured again: {error}")
            continue
        if again:
            log.add(merge_rooflines(launcher.device, again))


def measure_qualities(config: BenchConfig, text: Path, log: RunLog, listener: BenchListener) -> None:
    """Adds every target with its quality, measured here; where it cannot be measured, why is told."""
    for target in config.targets:
        listener.state(f"{target.name}: measuring what it loses")
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
            listener.note(f"what {target.name} loses is not known: {error}")
            continue
        log.add(target.model_copy(update={"quality": QualityResult.model_validate(answer)}))
