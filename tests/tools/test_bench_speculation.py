"""tools/bench_speculation.py. Oracle: figures by hand, the loop's own statistics, an engine that notes its calls."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bench_speculation
import numpy as np
import peers.bare_rounds
import pytest
from bench_speculation import Run, Setting, read_prompts, rows_of, settings_of, targets_of
from peers.bare_rounds import bare_seconds, rounds_of

import edgeskip
from edgeskip.errors import EdgeSkipError
from edgeskip.runtime.speculation.policy import Speculation

N, Y = False, True  # nobody drafted it, drafted


@pytest.mark.parametrize(
    ("drafted", "reason", "rounds"),
    [
        ([N], "length", []),
        ([N, N], "length", []),  # one token left is a plain step
        ([N, Y, Y, N, N, Y, N, N], "length", [(2, 2), (2, 0), (2, 1)]),  # and a plain step
        ([N, Y, N, N, Y, N, Y, N], "length", [(2, 1), (2, 0), (2, 1), (1, 1)]),
        ([N, Y, N], "eos", [(2, 1), (2, 0)]),  # the end token was the first of a round
        ([N, Y, N, Y], "eos", [(2, 1), (2, 1)]),  # and the second
        ([], "eos", []),
    ],
)
def test_rounds_from_what_was_drafted(drafted: list[bool], reason: str, rounds: list[tuple[int, int]]) -> None:
    generation: Any = SimpleNamespace(drafted=tuple(drafted), finish_reason=reason)
    assert rounds_of(generation, 2, len(drafted) if reason == "length" else 8) == rounds


@pytest.mark.parametrize("gamma", [1, 3, 8])
@pytest.mark.parametrize("tokens", [2, 3, 30])
def test_rounds_are_those_the_loop_counted(tiny_early_exit: Path, gamma: int, tokens: int) -> None:
    with edgeskip.load(tiny_early_exit, threads=1) as session:
        for text in ("The quick brown fox", "A model reads", "Skip"):
            policy = Speculation("model", gamma)
            generation = session.generate(text, max_tokens=tokens, strategy="speculative", speculation=policy)
            found, counts = rounds_of(generation, gamma, tokens), generation.stats.speculation
            assert counts is not None
            assert (len(found), sum(drafted for drafted, _ in found)) == (counts.rounds, counts.drafted)
            if generation.finish_reason == "length":
                assert sum(accepted for _, accepted in found) == counts.accepted


class NotingEngine:
    """A second a draft, ten a verification, a hundred a prefill."""

    context_length = 64

    def __init__(self) -> None:
        self.now, self.length, self.drafted = 0.0, 0, 0
        self.calls: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    def reserve(self, tokens: int) -> None: ...

    def _take(self, name: str, seconds: float, count: int) -> None:
        self.calls.append(f"{name} at {self.length}")
        self.now += seconds
        self.length += count

    def step(self, tokens: Any) -> Any:
        self._take("step", 100, len(tokens))
        return np.zeros((1, 4), np.float32)

    def draft(self, tokens: Any) -> None:
        self._take("draft", 1, len(tokens))
        self.drafted += 1

    def verify(self, tokens: Any) -> None:
        self._take(f"verify {self.drafted} + {len(tokens)}", 10, len(tokens))
        self.drafted = 0

    def truncate(self, length: int) -> None:
        assert length <= self.length
        self.length = length


def test_the_same_rounds_by_the_engine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = NotingEngine()
    monkeypatch.setattr(peers.bare_rounds, "time", engine)
    assert bare_seconds(engine, np.arange(5), [(2, 1), (1, 1)], 20) == 23.0  # type: ignore[arg-type]
    assert engine.calls == [
        "step at 0", "draft at 5", "draft at 6", "verify 2 + 1 at 7", "draft at 7", "verify 1 + 1 at 8",
    ]  # fmt: skip
    assert engine.length == 9


def run(setting: str, number: int, steps: int, decode_s: float, **more: Any) -> Run:
    return Run(setting, number, "p", steps + 1, steps, decode_s, **more)


def test_figures_by_hand() -> None:
    settings = [Setting("plain", None), Setting("γ 2", Speculation("model", 2)), Setting("auto", Speculation())]
    counts = {"rounds": 4, "drafted": 8, "accepted": 2, "draft_s": 0.1, "verify_s": 0.2, "plain_s": 0.0}
    counts["overhead_s"] = 0.1
    runs = []
    for number, plain_s in ((1, 0.4), (2, 0.8)):
        runs += [run("plain", number, 5, plain_s), run("plain", number, 15, plain_s)]
        runs += [run("γ 2", number, 10, 0.4, speculation=counts, loop_s=0.42, bare_s=0.4 if number == 1 else 0.42)]
        runs += [run("auto", number, 10, 0.2)]
    plain, two, auto = rows_of(settings, runs)
    assert (plain.tokens_per_s.high, plain.tokens_per_s.low) == pytest.approx((25.0, 12.5))
    assert (two.ratio.low, two.ratio.high) == pytest.approx((1.0, 2.0))
    assert (two.acceptance, two.accepted_length) == (0.25, 0.5)
    assert two.shares == pytest.approx((0.25, 0.5, 0.0, 0.25))
    assert two.loop is not None
    assert (two.loop.low, two.loop.high) == pytest.approx((1.0, 1.05))
    assert (plain.loop, plain.acceptance, auto.loop) == (None, None, None)
    result: Any = SimpleNamespace(artifact="x", rows=[plain, two, auto])
    assert [(target.bound, target.at_least) for target in targets_of(result)] == [(1.05, False), (0.97, True)]


def test_settings() -> None:
    found = settings_of(["default", "ngram"], ["4", "auto"])
    assert [(one.name, one.policy) for one in found] == [
        ("plain", None),
        ("γ 4", Speculation(None, 4)),
        ("auto", Speculation()),
        ("ngram γ 4", Speculation("ngram", 4)),
        ("ngram auto", Speculation("ngram")),
    ]
    with pytest.raises(EdgeSkipError, match="give numbers or auto"):
        settings_of(["default"], ["many"])
    with pytest.raises(EdgeSkipError, match="drafter oracle is unknown"):
        settings_of(["oracle"], ["2"])


def test_without_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESKIP_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(EdgeSkipError, match=r"spec_bench\.jsonl cannot be read: set EDGESKIP_DATA"):
        read_prompts(4)


def test_from_end_to_end(
    tiny_early_exit: Path, prompt_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.json"
    bench_speculation.bench_speculation(
        [tiny_early_exit], num_speculations="2,auto", drafter="default,ngram", prompts=2, tokens=12, rounds=2,
        threads=1, json_file=target,
    )  # fmt: skip
    result = json.loads(target.read_text())
    (artifact,) = result["artifacts"]
    assert [row["setting"] for row in artifact["rows"]] == ["plain", "γ 2", "auto", "ngram γ 2", "ngram auto"]
    assert len(artifact["runs"]) == 5 * 2 * 2
    by_model = [one for one in artifact["runs"] if one["setting"] == "γ 2"]
    assert all(one["loop_s"] and one["bare_s"] for one in by_model if one["speculation"]["rounds"])
    assert result["setting"]["prompts"] == ["spec_bench/0", "HumanEval/0"]
    assert len(result["targets"]) == 3
    assert "| γ 2 |" in capsys.readouterr().out
