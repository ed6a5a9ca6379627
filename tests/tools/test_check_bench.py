"""edgeskip bench beside others. Oracles: made-up figures by hand; `edgeskip bench` itself on a tiny artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import check_bench
import pytest
import typer
from harness.work_left import Work
from tiny_graph import build_tiny_artifact

from edgeskip.core.errors import EdgeSkipError


def run(monkeypatch: pytest.MonkeyPatch, ours: float, theirs: float, tmp_path: Path) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of a comparison in which both sides always measure the same."""
    monkeypatch.setattr(check_bench, "our_figures", lambda *_: {"pp8": ours, "tg4": 50.0})
    monkeypatch.setattr(check_bench, "llama_bench_figures", lambda *_: {"pp8": theirs, "tg4": 50.0})
    out = tmp_path / "out.json"
    with pytest.raises(typer.Exit) as stop:
        check_bench.check_bench(
            artifact=None, gguf=[Path("a.gguf")], llama_bench_program=Path("llama-bench"), genai_python=None,
            prompt_tokens=8, new_tokens=4, threads=1, rounds=3, json_file=out,
        )  # fmt: skip
    return stop.value.exit_code, json.loads(out.read_text())


def test_within_ten_per_cent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, found = run(monkeypatch, 109.0, 100.0, tmp_path)
    assert code == 0
    assert [(r["test"], r["within_goal"]) for r in found["data"]] == [("pp8", True), ("tg4", True)]
    assert found["data"][0]["ratio"]["value"] == pytest.approx(1.09)
    assert found["data"][0]["edgeskip"] == [109.0] * 3


def test_further_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run(monkeypatch, 89.0, 100.0, tmp_path)
    assert code == 1
    assert not found["data"][0]["within_goal"]
    assert "| a.gguf | pp8 | 89.0 | 100.0 | 0.890 [0.890 – 0.890] | NO |" in capsys.readouterr().out


def test_our_side_is_the_verb_itself(tmp_path: Path) -> None:
    figures = check_bench.our_figures(build_tiny_artifact(tmp_path / "tiny").folder, 16, 4, 1)
    assert list(figures) == ["pp16", "tg4", "tg4 @ d16"]
    assert all(value > 0 for value in figures.values())


def test_files_after_the_first_are_compared_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 0.9 of the first one's time per token, of which the larger ratio of its remaining work predicts 0.8."""
    works = {"a.gguf": Work(100.0, 10.0, 50.0), "b.gguf": Work(80.0, 7.0, 30.0)}
    monkeypatch.setattr(check_bench, "work_of", lambda path, **_: works[path.name])
    found = {name: [{"tg4": 100.0}] * 2 for name in ("a.gguf edgeskip", "a.gguf peer", "b.gguf peer")}
    found["b.gguf edgeskip"] = [{"tg4": 100 / 0.9}] * 2
    first, second = check_bench.rows_of([Path("a.gguf"), Path("b.gguf")], found, 4, 4)
    assert (first.over_first, first.predicted) == (None, None)
    assert second.over_first is not None
    assert (second.over_first.value, second.predicted) == (pytest.approx(0.9), 0.8)
    assert check_bench.table_of([first, second]).rows[1][-2:] == ["0.900 [0.900 – 0.900]", "1.125"]


def test_nothing_to_compare_with() -> None:
    arguments: dict[str, Any] = {
        "artifact": None, "gguf": None, "llama_bench_program": None, "genai_python": None, "prompt_tokens": 8,
        "new_tokens": 4, "threads": 1, "rounds": 2, "json_file": None,
    }  # fmt: skip
    with pytest.raises(EdgeSkipError, match="nothing to compare"):
        check_bench.check_bench(**arguments)
    with pytest.raises(EdgeSkipError, match="name it with --llama-bench"):
        check_bench.check_bench(**{**arguments, "gguf": [Path("a.gguf")]})
