"""The cost of splitting: which steps are timed and what they come to. Oracle: hand calculation with a fake clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import split_cost
from numpy.typing import NDArray
from split_cost import Case, Comparison, comparisons, measure, table_of, targets_of, timed
from split_gguf import split_gguf

from edgeskip.artifacts.gguf.manifest import GgufManifest
from edgeskip.artifacts.manifest import PlanSummary
from edgeskip.core.errors import EdgeSkipError
from edgeskip.profiles.schema import ModelRecord

PROMPT = 16


class Clock:
    """Time passes only where a fake engine takes some."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None: ...


class FakeEngine:
    """Takes `cost` seconds per call and token; refuses what a real one would refuse."""

    def __init__(self, clock: Clock, cost: float) -> None:
        self.clock, self.cost = clock, cost
        self.length = self.seen = 0
        self.calls: list[tuple[str, int, int]] = []  # method, length before, tokens

    def _take(self, method: str, count: int, cost: float) -> None:
        self.calls.append((method, self.length, count))
        self.clock.now += cost

    def step(self, tokens: NDArray[np.int64], *, logits: int = 1) -> None:
        self._take("step", len(tokens), self.cost)
        self.length += len(tokens)
        self.seen = self.length

    def draft(self, tokens: NDArray[np.int64]) -> None:
        self._take("draft", len(tokens), self.cost / 4)
        self.length += len(tokens)

    def verify(self, tokens: NDArray[np.int64]) -> None:
        assert self.length > self.seen
        assert not len(tokens)
        self._take("verify", self.length - self.seen, self.cost / 2)
        self.seen = self.length

    def truncate(self, length: int) -> None:
        assert length <= self.length
        self.clock.now += 100.0  # must not count
        self.length = length
        self.seen = min(self.seen, length)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(split_cost, "time", clock)
    return clock


def engines(clock: Clock) -> Any:
    return FakeEngine(clock, 1.2), FakeEngine(clock, 1.0), FakeEngine(clock, 0.25)


def test_what_is_compared_and_what_it_comes_to(clock: Clock) -> None:
    split, whole, plain = engines(clock)
    compared = comparisons(split, whole, plain, np.arange(PROMPT + 8), PROMPT, repeats=2)
    measure(compared, rounds=3)
    assert {(c.name, c.against): round(c.ratio.median, 6) for c in compared} == {
        ("prompt of 16", "both halves / whole"): 1.2,
        ("prompt of 16, first half", "callback / none"): 1.2,  # 1.2 / 4 against 0.25
        **{(name, "both halves / whole"): 1.2 for name in ("1 token", *(f"{n} tokens at once" for n in (2, 4, 8)))},
        ("round of 1: drafted, verified", "/ 1 decode step of whole"): 0.9,  # 0.3 + 0.6 against 1
        ("round of 2: drafted, verified", "/ 2 decode steps of whole"): 0.6,
        ("round of 4: drafted, verified", "/ 4 decode steps of whole"): 0.45,
        ("round of 8: drafted, verified", "/ 8 decode steps of whole"): 0.375,
        ("1 token, first half", "callback / none"): 1.2,
    }
    assert all(len(c.subject_s) == len(c.baseline_s) == 3 for c in compared)
    assert [c.name for c in compared if c.bound] == [
        "prompt of 16",
        "1 token",
        "2 tokens at once",
        "4 tokens at once",
        "8 tokens at once",
    ]


def test_every_step_but_the_prompt_stands_behind_it(clock: Clock) -> None:
    split, whole, plain = engines(clock)
    measure(comparisons(split, whole, plain, np.arange(PROMPT + 8), PROMPT, repeats=1), rounds=1)
    for engine in (split, whole, plain):
        for method, before, count in engine.calls:
            assert before == 0 if count == PROMPT else before >= PROMPT, (method, before, count)
    assert ("verify", PROMPT + 8, 8) in split.calls


def test_a_turn_is_the_median_without_the_way_back(clock: Clock) -> None:
    engine = FakeEngine(clock, 1.0)
    times = iter([1.0, 9.0, 2.0])

    def run() -> None:
        clock.now += next(times)

    assert timed(Case(engine, run, 0, 3)) == 2.0  # type: ignore[arg-type]


def test_who_is_first_changes_by_round(clock: Clock) -> None:
    order: list[str] = []
    cases = [Case(FakeEngine(clock, 1.0), lambda name=name: order.append(name), 0, 1) for name in "ab"]  # type: ignore
    measure([Comparison("x", "a / b", *cases)], rounds=2)
    assert "".join(order) == "ba" + "ab" + "ba"  # the first two warm up


def test_the_table_and_the_bound() -> None:
    one = Comparison("1 token", "both halves / whole", None, None, 1.1, [0.011, 0.010], [0.010, 0.010])  # type: ignore
    assert table_of([one]).rows == [["1 token", "both halves / whole", "10.50", "10.00", "1.050 [1.000 – 1.100]"]]
    (target,) = targets_of([one])
    assert (target.what, target.bound, target.met) == ("1 token: both halves / whole", 1.1, True)


@pytest.mark.slow  # writes the whole vocabulary twice
def test_a_real_pair_from_end_to_end(smollm2_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("llama_cpp")
    first, _ = split_gguf(smollm2_gguf, tmp_path, 2, {part: manifest(part) for part in ("first", "rest")})
    options: dict[str, Any] = {"prompt": 16, "rounds": 1, "repeats": 1, "threads": 1}
    split_cost.split_cost(first, smollm2_gguf, **options, json_file=tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["setting"]["exit_layer"] == 3  # the model's own count, as the file says
    assert len(result["data"]) == 11
    assert all(one["ratio"]["median"] > 0 for one in result["data"])
    assert "| 8 tokens at once | both halves / whole |" in capsys.readouterr().out
    with pytest.raises(EdgeSkipError, match="is no first half of a pair"):
        split_cost.split_cost(smollm2_gguf, smollm2_gguf, **options)


def manifest(part: Any) -> dict[str, str]:
    return GgufManifest(
        label="draft-only",
        part=part,
        exit_layer=3,  # a plan has removed a block of the first half
        partner={"first": "rest.gguf", "rest": "first.gguf"}[part],
        precision="keep",
        model=ModelRecord(
            source="x",
            name="x",
            family="llama",
            fingerprint="0" * 64,
            num_blocks=30,
            hidden_size=576,
            vocab_size=49152,
        ),
        plan=PlanSummary(method="none", compensation="none", skip=[], num_blocks=30),
        inputs={},
        versions={},
        created="2026-01-01T00:00:00+00:00",
    ).to_metadata()
