"""Starts one worker process per contestant and makes them run in turn, never two at once."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from edgeskip.core.errors import EdgeSkipError
from harness.machine import cpu_time

WORKERS = Path(__file__).parent / "workers"
Role = Literal["ours", "peer"]


def tell(line: str) -> None:
    """Progress, to stderr."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Contestant:
    """One runtime with one model: what is measured and how it is started."""

    name: str
    role: Role
    precision: str
    python: Path
    worker: str  # file name in harness/workers
    folder: Path
    note: str = ""  # how the model files were made


@dataclass(frozen=True)
class Run:
    """One generation: `tokens` n ids, seconds to the first of them, seconds of each later one."""

    tokens: tuple[int, ...]
    prefill_s: float
    token_s: tuple[float, ...]
    peak_rss_bytes: int
    others_cores: float | None = None  # cores the rest of the machine kept busy meanwhile
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass
class Worker:
    """A worker process after its `load`."""

    contestant: Contestant
    process: subprocess.Popen[str]
    log: Path
    loaded: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def start(cls, contestant: Contestant, *, threads: int, capacity: int, logs: Path) -> Worker:
        """Starts and loads; EdgeSkipError with the worker's own words where that fails."""
        logs.mkdir(parents=True, exist_ok=True)
        log = logs / f"{contestant.name.replace('/', '-').replace(' ', '-')}.log"
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "PYTHONUTF8": "1",
        }
        with log.open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [str(contestant.python), str(WORKERS / contestant.worker)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                env=environment,
            )
        worker = cls(contestant, process, log)
        try:
            worker.loaded = worker.ask(
                {"op": "load", "folder": str(contestant.folder), "threads": threads, "capacity": capacity}
            )
        except BaseException:
            worker.stop()
            raise
        return worker

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Sends one request and waits for its reply."""
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
        """One generation; EdgeSkipError where it is not `new_tokens` long."""
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
        """Ends the process: its input closes, and it is killed where that does not suffice."""
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
    report: Callable[[str], None] = tell,
) -> dict[str, list[Run]]:
    """Runs of each contestant by name, one per round, in the order of rounds, from workers that stay loaded.

    A round before the first warms up and is dropped.
    """
    cells = {worker.contestant.name: partial(worker.run, prompt, new_tokens) for worker in workers}
    return take_turns(cells, rounds=rounds, warm_up=True, pause_s=pause_s, report=report)


def run_afresh(
    contestant: Contestant, prompt: Sequence[int], new_tokens: int, *, threads: int, logs: Path, warm_up_tokens: int = 8
) -> Run:
    """One generation by a worker of its own: loads, warms up with the same prompt, runs and ends."""
    worker = Worker.start(contestant, threads=threads, capacity=len(prompt) + new_tokens, logs=logs)
    try:
        worker.run(prompt, min(warm_up_tokens, new_tokens))
        return worker.run(prompt, new_tokens)
    finally:
        worker.stop()


def take_turns(
    cells: Mapping[str, Callable[[], Run]],
    *,
    rounds: int,
    warm_up: bool,
    pause_s: float = 0.3,
    report: Callable[[str], None] = tell,
) -> dict[str, list[Run]]:
    """Runs of each cell by name, one per round. `warm_up` adds a round before them whose runs are dropped.

    In every round each cell runs once; the order is rotated from round to round, so that none always follows the
    same one. `pause_s` lets the last one's spinning threads fall asleep.
    """
    runs: dict[str, list[Run]] = {name: [] for name in cells}
    names = list(cells)
    for number in range(0 if warm_up else 1, rounds + 1):
        shift = number % len(names)
        for name in [*names[shift:], *names[:shift]]:
            time.sleep(pause_s)
            run = cells[name]()
            report(
                f"{f'round {number}' if number else 'warm-up'}  {name}: prefill {run.prefill_s:.2f} s, "
                f"decode {sum(run.token_s):.2f} s"
            )
            if number:
                runs[name].append(run)
    return runs
