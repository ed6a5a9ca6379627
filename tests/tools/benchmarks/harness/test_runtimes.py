"""The benchmark's workers: timing, protocol and turns. Oracle: a fake clock, and a worker that counts."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness.processes
import protocol
import pytest
from harness.llama_bench import run_of
from harness.processes import CpuTime, take_turns
from harness.runtimes import Contestant, Run, Worker, race, run_afresh

from edgeskip.core.errors import EdgeSkipError

FAKE = Path(__file__).with_name("fake_worker.py")


def contestant(name: str = "fake", manner: str = "well") -> Contestant:
    return Contestant(name, Path(sys.executable), str(FAKE), Path("/models") / manner)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    started = Worker.start(contestant(), threads=2, capacity=8, logs=tmp_path)
    yield started
    started.stop()


def test_prefill_ends_with_the_first_token_and_decode_is_the_rest() -> None:
    times = iter([10.0, 12.0, 12.5, 13.5])
    tokens = iter([7, 8, 9])
    result = protocol.timed_run(lambda prompt: lambda: next(tokens), [1, 2], 3, clock=lambda: next(times))
    assert result == {"tokens": [7, 8, 9], "prefill_s": 2.0, "token_s": [0.5, 1.0]}


def serve(*requests: dict[str, Any]) -> list[dict[str, Any]]:
    def load(record: protocol.Record, *, folder: str) -> protocol.Start:
        record.settings["folder"] = folder
        return lambda prompt: lambda: len(prompt)

    replies = io.StringIO()
    lines = io.StringIO("".join(json.dumps(request) + "\n" for request in requests))
    protocol.serve(load, ("numpy",), requests=lines, replies=replies)
    return [json.loads(line) for line in replies.getvalue().splitlines()]


def test_serve_answers_each_request_with_a_line() -> None:
    run = {"op": "run", "prompt": [4, 5, 6], "new_tokens": 2}
    loaded, answer = serve({"op": "load", "folder": "x"}, run, {"op": "quit"}, run)
    assert loaded["ok"]
    assert loaded["settings"] == {"folder": "x"}
    assert loaded["versions"].keys() == {"python", "numpy"}
    assert answer["ok"]
    assert answer["tokens"] == [3, 3]
    assert len(answer["token_s"]) == 1
    assert answer["peak_rss_bytes"] > 1 << 20


def test_serve_tells_errors_and_goes_on() -> None:
    early, unknown, loaded = serve({"op": "run"}, {"op": "dance"}, {"op": "load", "folder": "x"})
    assert not early["ok"]
    assert unknown == {"ok": False, "error": "ValueError: cannot 'dance' now"}
    assert loaded["ok"]


def test_worker_process_runs_and_keeps_noise_out_of_its_replies(worker: Worker) -> None:
    assert worker.loaded["settings"] == {"threads": 2, "capacity": 8}
    assert "no-such-package" not in worker.loaded["versions"]
    run = worker.run([1, 2], 3)
    assert run.tokens == (4, 5, 6)
    assert run.notes == {"steps": 3}
    assert len(run.token_s) == 2
    assert worker.run([1, 2], 2).notes == {"steps": 2}  # of this run alone
    assert "banner" in worker.log.read_text()


def test_a_stopped_worker_has_ended(worker: Worker) -> None:
    worker.stop()
    assert worker.process.returncode == 0


@pytest.mark.parametrize(
    ("manner", "says"), [("dying", r"fake: its worker died; see .*fake\.log"), ("failing", "RuntimeError: no memory")]
)
def test_a_worker_that_fails_is_one_clear_line(tmp_path: Path, manner: str, says: str) -> None:
    worker = Worker.start(contestant(manner=manner), threads=1, capacity=8, logs=tmp_path)
    with pytest.raises(EdgeSkipError, match=says):
        worker.run([1], 2)
    worker.stop()


def test_a_worker_that_cannot_load_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[Worker] = []
    stop = Worker.stop
    monkeypatch.setattr(Worker, "stop", lambda self: (stopped.append(self), stop(self))[1])
    with pytest.raises(EdgeSkipError, match="FileNotFoundError: no such model"):
        Worker.start(contestant(manner="unloadable"), threads=1, capacity=8, logs=tmp_path)
    assert stopped[0].process.returncode == 0


class Recorded:
    """Stands in for a worker and notes when it ran."""

    def __init__(self, name: str, order: list[str]) -> None:
        self.contestant = contestant(name)
        self.order = order

    def run(self, prompt: list[int], new_tokens: int) -> Run:
        self.order.append(self.contestant.name)
        return Run((len(self.order),), 1.0, (1.0,), 1)


def test_race_takes_turns_rotates_and_drops_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(harness.processes.time, "sleep", pauses.append)
    order: list[str] = []
    workers: list[Any] = [Recorded(name, order) for name in "abc"]
    runs = race(workers, [1], 2, rounds=2, report=lambda line: None)
    assert "".join(order) == "abc" + "bca" + "cab"
    assert {name: [run.tokens[0] for run in runs[name]] for name in runs} == {"a": [6, 8], "b": [4, 9], "c": [5, 7]}
    assert pauses == [0.3] * 9


def test_others_cores_are_what_the_worker_did_not_use() -> None:
    before, after = CpuTime(machine_s=100.0, process_s=10.0), CpuTime(machine_s=107.0, process_s=14.0)
    assert after.others_since(before, seconds=2.0) == 1.5
    assert before.others_since(after, seconds=2.0) == 0.0


def test_every_turn_is_measured_where_cells_warm_up_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.processes.time, "sleep", lambda seconds: None)
    order: list[str] = []

    def turn(name: str) -> Any:
        return lambda: (order.append(name), len(order))[1]

    runs = take_turns({name: turn(name) for name in "abc"}, rounds=2, report=lambda line: None)
    assert "".join(order) == "bca" + "cab"
    assert runs["b"] == [1, 6]


def test_a_process_of_its_own_warms_up_and_ends(tmp_path: Path) -> None:
    """fake_worker's tokens count up from the prompt's sum; its notes count the steps of the last run alone."""
    contestant = Contestant("fake", Path(sys.executable), str(FAKE), Path("/models/well"))
    result = run_afresh(contestant, [1, 2], 12, threads=1, logs=tmp_path)
    assert result.tokens == tuple(range(4, 16))
    assert result.notes == {"steps": 12}
    failing = Contestant("fake", Path(sys.executable), str(FAKE), Path("/models/failing"))
    with pytest.raises(EdgeSkipError, match="RuntimeError: no memory"):
        run_afresh(failing, [1, 2], 12, threads=1, logs=tmp_path)


def answer(n_prompt: int, n_gen: int, avg_ns: int) -> list[dict[str, Any]]:
    return [{"n_prompt": n_prompt, "n_gen": n_gen, "avg_ns": avg_ns, "build_commit": "abc", "type_k": "f16"}]


def test_llama_benchs_rows_become_a_run() -> None:
    result = run_of(answer(512, 0, 2_000_000_000), answer(0, 4, 1_000_000_000))
    assert result.prefill_s == 2.0
    assert result.token_s == (0.25,) * 4
    assert result.decode_tokens_per_s == 4.0


def test_other_rows_than_asked_for_are_refused() -> None:
    with pytest.raises(EdgeSkipError, match="other tests"):
        run_of(answer(512, 0, 1), answer(512, 0, 1))
