"""Runtimes that generate from the same prompt, a worker process each (workers/), and what their runs come to."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from edgeskip.core.errors import EdgeSkipError
from harness.processes import cpu_time, show_progress, take_turns, worker_environment
from harness.results import Spread

WORKERS = Path(__file__).parent / "workers"


@dataclass(frozen=True)
class Contestant:
    """One runtime with one model: what is measured and how it is started. `options` are its worker's own."""

    name: str
    python: Path
    worker: str  # file name in harness/workers
    folder: Path
    precision: str = ""
    note: str = ""  # how the model files were made
    ours: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def our_contestant(path: Path, name: str = "", precision: str = "", note: str = "") -> Contestant:
    """This runtime on an artifact folder or a GGUF file."""
    python = Path(sys.executable)
    return Contestant(name or path.name, python, "edgeskip_worker.py", path.resolve(), precision, note, ours=True)


@dataclass(frozen=True)
class Run:
    """One generation: `tokens` n ids, seconds to the first of them, seconds of each later one."""

    tokens: tuple[int, ...]
    prefill_s: float
    token_s: tuple[float, ...]
    peak_rss_bytes: int
    others_cores: float | None = None  # cores the rest of the machine kept busy meanwhile
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def decode_s(self) -> float:
        return sum(self.token_s)

    @property
    def decode_tokens_per_s(self) -> float:
        """Of the tokens after the first."""
        return len(self.token_s) / self.decode_s

    def __str__(self) -> str:
        return f"prefill {self.prefill_s:.2f} s, decode {self.decode_s:.2f} s"


@dataclass
class Worker:
    """A worker process after its `load`."""

    contestant: Contestant
    process: subprocess.Popen[str]
    log: Path
    loaded: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def start(cls, contestant: Contestant, *, threads: int, capacity: int, logs: Path) -> Worker:
        """Start and load; EdgeSkipError with the worker's error if that fails."""
        logs.mkdir(parents=True, exist_ok=True)
        log = logs / f"{contestant.name.replace('/', '-').replace(' ', '-')}.log"
        with log.open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [str(contestant.python), str(WORKERS / contestant.worker)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                env=worker_environment(threads),
            )
        worker = cls(contestant, process, log)
        try:
            request = {"folder": str(contestant.folder), "threads": threads, "capacity": capacity}
            worker.loaded = worker.ask({"op": "load", **request, **contestant.options})
        except BaseException:
            worker.stop()
            raise
        return worker

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its reply."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise EdgeSkipError(f"{self.contestant.name}: its worker died; see {self.log}")
        reply: dict[str, Any] = json.loads(line)
        if not reply.pop("ok"):
            raise EdgeSkipError(f"{self.contestant.name}: {reply['error']} (see {self.log})")
        return reply

    def run(self, prompt: Sequence[int], new_tokens: int) -> Run:
        """One generation; raises EdgeSkipError if it is not `new_tokens` long."""
        before, begin = cpu_time(self.process.pid), time.perf_counter()
        reply = self.ask({"op": "run", "prompt": list(prompt), "new_tokens": new_tokens})
        after, seconds = cpu_time(self.process.pid), time.perf_counter() - begin
        if len(reply["tokens"]) != new_tokens or len(reply["token_s"]) != new_tokens - 1:
            raise EdgeSkipError(f"{self.contestant.name}: gave {len(reply['tokens'])} tokens, not {new_tokens}")
        return Run(
            tokens=tuple(reply["tokens"]),
            prefill_s=reply["prefill_s"],
            token_s=tuple(reply["token_s"]),
            peak_rss_bytes=reply["peak_rss_bytes"],
            others_cores=after.others_since(before, seconds) if before and after else None,
            notes=reply["notes"],
        )

    def stop(self) -> None:
        """End the process: close its input, and kill it if that does not suffice."""
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def race(
    workers: Sequence[Worker],
    prompt: Sequence[int],
    new_tokens: int,
    *,
    rounds: int,
    pause_s: float = 0.3,
    report: Callable[[str], None] = show_progress,
) -> dict[str, list[Run]]:
    """Runs of each contestant by name, one per round, from workers that stay loaded; a round before them warms up."""
    cells = {worker.contestant.name: partial(worker.run, prompt, new_tokens) for worker in workers}
    return take_turns(cells, rounds=rounds, warm_up=True, pause_s=pause_s, report=report)


def run_afresh(
    contestant: Contestant, prompt: Sequence[int], new_tokens: int, *, threads: int, logs: Path, warm_up_tokens: int = 8
) -> Run:
    """One generation by a worker of its own: loads, warms up with the same prompt, runs and ends.

    `warm_up_tokens` 0: without the run that warms up.
    """
    worker = Worker.start(contestant, threads=threads, capacity=len(prompt) + new_tokens, logs=logs)
    try:
        if warm_up_tokens:
            worker.run(prompt, min(warm_up_tokens, new_tokens))
        return worker.run(prompt, new_tokens)
    finally:
        worker.stop()


@dataclass(frozen=True)
class Figures:
    """What one contestant's runs come to; tokens/s over prompt and over the tokens after the first."""

    prefill_tokens_per_s: Spread
    decode_tokens_per_s: Spread
    peak_rss_bytes: int
    others_cores: float | None  # median over rounds of the cores everything else kept busy
    python_share: Spread | None  # of decode time, if the worker notes `runtime_s`


def figures_of(runs: Sequence[Run], prompt_tokens: int) -> Figures:
    """Figures of one contestant over its rounds; `prompt_tokens` is the prompt's length."""
    others = [run.others_cores for run in runs if run.others_cores is not None]
    shares = [1 - run.notes["runtime_s"] / run.decode_s for run in runs if "runtime_s" in run.notes]
    return Figures(
        prefill_tokens_per_s=Spread.of(prompt_tokens / run.prefill_s for run in runs),
        decode_tokens_per_s=Spread.of(run.decode_tokens_per_s for run in runs),
        peak_rss_bytes=max(run.peak_rss_bytes for run in runs),
        others_cores=statistics.median(others) if others else None,
        python_share=Spread.of(shares) if shares else None,
    )


@dataclass(frozen=True)
class Ratios:
    """How many times as fast one contestant is as another, round by round: > 1 = faster."""

    prefill: Spread
    decode: Spread


def ratios_of(ours: Sequence[Run], theirs: Sequence[Run]) -> Ratios:
    """Return their seconds over ours, paired by round."""
    return Ratios(
        prefill=Spread.of_ratios((run.prefill_s for run in theirs), (run.prefill_s for run in ours)),
        decode=Spread.of_ratios((run.decode_s for run in theirs), (run.decode_s for run in ours)),
    )


def agreement(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Return how many greedy tokens are the same before the first that is not."""
    return next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), len(ours))
