"""Run the cells in turns: each cell once a round, every record passed on at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edgeskip.bench.runner.launcher import Launcher
from edgeskip.bench.runner.request import BenchPrompt, RoundRequest, SyntheticTest
from edgeskip.bench.schema import BenchCell, RoundFailure, RoundResult, timestamp
from edgeskip.core.errors import EdgeSkipError

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """A cell and who measures it; `path` is the artifact's there."""

    cell: BenchCell
    launcher: Launcher
    path: str


@dataclass(frozen=True)
class RoundSpec:
    """What every cell does in a round: tests on random tokens (cells decoded plainly only) and answers."""

    tests: tuple[SyntheticTest, ...]
    prompts: tuple[BenchPrompt, ...]
    max_tokens: int
    seed: int
    allow_fallback: bool = False
    chat_options: dict[str, Any] = field(default_factory=dict)

    def request(self, cell: BenchCell, path: str, round: int) -> RoundRequest:
        """Return one round of `cell`, its artifact at `path` where it runs."""
        return RoundRequest(
            path=path,
            cell=cell,
            round=round,
            tests=list(self.tests) if cell.strategy == "plain" else [],
            prompts=list(self.prompts),
            max_tokens=self.max_tokens,
            seed=self.seed,
            allow_fallback=self.allow_fallback,
            chat_options=self.chat_options,
        )

    def measures(self, cell: BenchCell) -> bool:
        """Return whether there is anything to measure of `cell`."""
        return bool(self.prompts) or (bool(self.tests) and cell.strategy == "plain")


def alternating_order(cells: Sequence[T], round: int) -> list[T]:
    """Run every other round backwards: what the machine does over a round then favors no cell."""
    return list(cells) if round % 2 == 0 else list(reversed(cells))


def run_rounds(
    jobs: Sequence[Job],
    work: RoundSpec,
    rounds: int,
    record: Callable[[RoundResult | RoundFailure], None],
    progress: Callable[[int, int, BenchCell, str], None],
) -> None:
    """Call `record` with a result or failure for each round of each cell; a cell that failed is not tried again.

    `progress` gets how many processes of how many are done, the cell that runs now and what it is doing.
    """
    failed: set[BenchCell] = set()
    done, total = 0, rounds * len(jobs)
    for round in range(rounds):
        for job in alternating_order(jobs, round):
            if job.cell in failed:
                done += 1
                continue

            def report(message: str, done: int = done, cell: BenchCell = job.cell) -> None:
                progress(done, total, cell, message)

            report("starting")
            try:
                record(job.launcher.run(work.request(job.cell, job.path, round), report))
            except EdgeSkipError as error:
                failed.add(job.cell)
                record(_failure(job.cell, round, str(error)))
            done += 1


def synthetic_tests(
    prompt_tokens: Sequence[int], new_tokens: Sequence[int], depths: Sequence[int]
) -> tuple[SyntheticTest, ...]:
    """Return llama-bench's tests: every pp and every tg at every depth; 0 tokens = none of that kind."""
    kinds = [("pp", count) for count in prompt_tokens if count] + [("tg", count) for count in new_tokens if count]
    return tuple(SyntheticTest(test=kind, tokens=count, depth=depth) for depth in depths for kind, count in kinds)  # type: ignore[arg-type]


def _failure(cell: BenchCell, round: int, message: str) -> RoundFailure:
    created = timestamp()
    return RoundFailure(cell=cell, round=round, created=created, message=message[:2000])
