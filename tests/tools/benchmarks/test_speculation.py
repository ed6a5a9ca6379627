"""speculation.py. Oracle: figures by hand, the loop's own statistics, an engine that notes its calls."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import harness.rounds
import numpy as np
import pytest
import speculation
from harness.prompts import prompts_from, read_prompts
from harness.rounds import Call, bare_seconds, rounds_of, timed_calls
from harness.speculation_figures import Run, Setting, by_category, round_of, rows_of, targets_of
from speculation import settings_of

import edgeskip
from edgeskip.core.errors import EdgeSkipError
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

    def draft(self, tokens: Any, which: int = 0) -> None:
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
    monkeypatch.setattr(harness.rounds, "time", engine)
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
    counts |= {"overhead_s": 0.1, "plain_steps": 0}
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
    found = settings_of(["model", "ngram"], ["2"], ["1", "4"])
    assert [one.name for one in found] == ["plain", "model exit 1 γ 2", "model exit 4 γ 2", "ngram γ 2"]
    assert [one.policy.exit_layer for one in found[1:] if one.policy] == [1, 4, None]
    with pytest.raises(EdgeSkipError, match="--exit-layer deep: give numbers"):
        settings_of(["model"], ["2"], ["deep"])
    with pytest.raises(EdgeSkipError, match="give numbers or auto"):
        settings_of(["default"], ["many"])
    with pytest.raises(EdgeSkipError, match="drafter oracle is unknown"):
        settings_of(["oracle"], ["2"])


def test_a_mean_round_by_hand() -> None:
    counts = {"rounds": 4, "plain_steps": 2, "drafted": 8, "draft_s": 0.1}
    calls = [
        Call("draft", 1, 8, 0.08),
        Call("step", 1, 2, 0.04),
        Call("verify", 3, 3, 0.09),
        Call("verify", 2, 1, 0.02),
    ]
    found = round_of([run("γ 2", 1, 10, 0.262, speculation=counts, calls=calls), run("plain", 1, 10, 9.0)])
    assert found is not None
    assert found.draft_steps == 2
    assert (found.draft_step_ms, found.plain_step_ms) == pytest.approx((10.0, 20.0))
    assert found.drafter_ms == pytest.approx(5.0)  # of 100 ms the engine's steps take 80, in 4 rounds
    assert found.verify_ms == pytest.approx(27.5)
    assert found.verify_by_rows == {2: (1, pytest.approx(20.0)), 3: (3, pytest.approx(30.0))}
    assert found.loop_ms == pytest.approx(2.0)  # 262 - 100 - 110 - 40 over 6 turns
    assert round_of([run("plain", 1, 10, 1.0)]) is None


def test_an_engine_without_a_draft_verifies_by_steps() -> None:
    counts = {"rounds": 2, "plain_steps": 1, "drafted": 4, "draft_s": 0.01}
    calls = [Call("step", 1, 1, 0.02), Call("step", 3, 2, 0.08)]
    found = round_of([run("ngram γ 2", 1, 10, 0.2, speculation=counts, calls=calls)])
    assert found is not None
    assert (found.draft_steps, found.draft_step_ms, found.verify_ms) == (0, None, pytest.approx(40.0))


def test_categories_by_hand() -> None:
    settings = [Setting("plain", None), Setting("γ 2", Speculation("model", 2))]
    runs = [run("plain", 1, 10, 1.0, category="a"), run("γ 2", 1, 10, 0.5, category="a")]
    runs += [run("plain", 1, 10, 1.0, category="b"), run("γ 2", 1, 10, 2.0, category="b")]
    runs += [run("plain", 1, 0, 1.0, category="empty"), run("γ 2", 1, 0, 1.0, category="empty")]
    found = by_category(settings, runs)
    assert {name: rows[1].ratio.median for name, rows in found.items()} == {"a": 2.0, "b": 0.5}


def test_calls_behind_the_prompt_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = NotingEngine()
    monkeypatch.setattr(harness.rounds, "time", engine)
    with timed_calls(engine, 5) as times:
        engine.step(np.arange(3))
        engine.step(np.arange(2))  # the prompt's end
        engine.draft(np.arange(1))
        engine.draft(np.arange(1))
        engine.verify(np.arange(1))
        engine.step(np.arange(1))
    engine.step(np.arange(1))
    assert times.calls == [Call("draft", 1, 2, 2.0), Call("step", 1, 1, 100.0), Call("verify", 3, 1, 10.0)]


def test_prompts_of_files(tmp_path: Path) -> None:
    spec = [{"question_id": i, "category": c, "turns": [f"{c} {i}", "more"]} for i, c in enumerate(["math", "qa"] * 3)]
    (tmp_path / "spec.jsonl").write_text("".join(json.dumps(record) + "\n" for record in spec))
    (tmp_path / "top.tsv").write_text('domain\tutterance\nalarm\twake "me\nmusic\tplay\n')
    found = prompts_from([str(tmp_path / "spec.jsonl"), str(tmp_path / "top.tsv")], 2)
    assert [(one.name, one.text, one.category) for one in found] == [
        ("spec/0", "math 0", "mt_bench"),
        ("spec/2", "math 2", "mt_bench"),
        ("spec/1", "qa 1", "qa"),
        ("spec/3", "qa 3", "qa"),
        ("top/0", 'wake "me', "top"),
        ("top/1", "play", "top"),
    ]
    by_domain = prompts_from([f"{tmp_path / 'top.tsv'}#utterance"], 2, category="domain", chat=False)
    assert [(one.category, one.chat) for one in by_domain] == [("alarm", False), ("music", False)]
    with pytest.raises(EdgeSkipError, match=r"top\.tsv, line 2 has no text in the field 'answer'"):
        prompts_from([f"{tmp_path / 'top.tsv'}#answer"], 2)
    with pytest.raises(EdgeSkipError, match="files of records"):
        prompts_from([str(tmp_path / "book.txt")], 2)


def test_without_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESKIP_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(EdgeSkipError, match=r"spec_bench\.jsonl cannot be read: set EDGESKIP_DATA"):
        read_prompts(4)


def test_from_end_to_end(
    tiny_early_exit: Path, prompt_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.json"
    speculation.bench_speculation(
        [tiny_early_exit], num_speculations="2,auto", drafter="default,ngram", prompts=2, tokens=12, rounds=2,
        threads=1, json_file=target,
    )  # fmt: skip
    result = json.loads(target.read_text())
    (artifact,) = result["data"]
    assert [row["setting"] for row in artifact["rows"]] == ["plain", "γ 2", "auto", "ngram γ 2", "ngram auto"]
    assert len(artifact["runs"]) == 5 * 2 * 2
    rounds = {row["setting"]: row["a_round"] for row in artifact["rows"]}
    assert rounds["plain"] is None
    assert rounds["γ 2"]["draft_step_ms"] > 0
    assert max(map(int, rounds["γ 2"]["verify_by_rows"])) <= 3
    assert all(one["same"] in (True, None) for one in artifact["runs"])  # the tiny model's margins are wide
    by_model = [one for one in artifact["runs"] if one["setting"] == "γ 2"]
    assert all(one["loop_s"] and one["bare_s"] for one in by_model if one["speculation"]["rounds"])
    assert result["setting"]["prompt_names"] == ["spec_bench/0", "HumanEval/0"]
    assert len(result["targets"]) == 3
    assert "| γ 2 |" in capsys.readouterr().out


def test_by_category_from_end_to_end(tiny_early_exit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "spec.jsonl"
    records = [{"category": name, "turns": [f"Measure a {name}."]} for name in ("fox", "dog")]
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    target = tmp_path / "out.json"
    speculation.bench_speculation(
        [tiny_early_exit], num_speculations="2", drafter="model", exit_layer="1", data=[str(data)], category="category",
        raw=True, prompts=1, tokens=8, rounds=1, threads=1, json_file=target,
    )  # fmt: skip
    (artifact,) = json.loads(target.read_text())["data"]
    assert list(artifact["categories"]) == ["fox", "dog"]
    assert [row["setting"] for row in artifact["categories"]["dog"]] == ["plain", "model exit 1 γ 2"]
    out = capsys.readouterr().out
    assert "| mean of these |" in out
    assert "| ÷ plain (accepted) | model exit 1 γ 2 |" in out


def test_texts_that_differ_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain runs have nothing to compare; a text that parts has the position and margin that the runtime finds."""
    found = SimpleNamespace(position=1, margin=0.25)
    monkeypatch.setattr(speculation, "find_difference", lambda session, ids, *texts: found)
    counts = {"rounds": 1}
    session, ids = SimpleNamespace(), np.arange(2)
    drafted = run("γ 2", 1, 2, 0.1, speculation=counts)
    outcomes = [
        speculation.compared(session, one, ids, (1, 2), text)  # type: ignore[arg-type]
        for one, text in ((run("plain", 1, 2, 0.1), (1, 2)), (drafted, (1, 2)), (drafted, (1, 3)))
    ]
    assert [one.same for one in outcomes] == [None, True, False]
    assert [(one.position, one.margin) for one in outcomes] == [(None, None), (None, None), (1, 0.25)]
