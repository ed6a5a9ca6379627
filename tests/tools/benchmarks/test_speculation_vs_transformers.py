"""Speculation against transformers. Oracle: figures by hand, transformers' own forward passes; each for the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speculation_vs_transformers
from drafting_artifacts import EXIT_LAYER
from speculation_vs_transformers import (
    PEER,
    Deliveries,
    Side,
    Turn,
    by_edgeskip,
    by_transformers,
    rows_of,
    table_of,
    targets_of,
)  # fmt: skip

from edgeskip.core.errors import EdgeSkipError

PROMPT = [5, 9, 33, 71, 12, 200, 41]
TOKENS = 24


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1.0
        return self.now


def test_what_deliveries_come_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speculation_vs_transformers, "time", Clock())
    watch = Deliveries()
    watch.put(np.array([PROMPT]))
    for part in ([7, 8], [9], [10, 11, 12], [13]):
        watch.put(np.array([part]))
    assert watch.result(len(PROMPT), 7, 2) == {
        "tokens": [7, 8, 9, 10, 11, 12, 13],
        "steps": 5,  # two came with the prompt's own run
        "decode_s": 3.0,
        "drafted": 2 + 2 + 2 + 0,  # after six of seven tokens there is room for one, which nobody need draft
        "accepted": 3,
    }
    with pytest.raises(EdgeSkipError, match="gave 7 tokens, not 8"):
        watch.result(len(PROMPT), 8, 2)


@pytest.mark.parametrize("gamma", [1, 3])
def test_transformers_drafts_as_many_as_it_is_told(
    tiny_llama: Path, gamma: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaModel

    blocks: list[int] = []
    forward = LlamaModel.forward

    def noting(self: Any, *arguments: Any, **named: Any) -> Any:
        blocks.append(self.config.num_hidden_layers)
        return forward(self, *arguments, **named)

    generate = by_transformers(tiny_llama, EXIT_LAYER, gamma, 1)
    monkeypatch.setattr(LlamaModel, "forward", noting)
    found = generate(PROMPT, TOKENS)
    assert blocks.count(EXIT_LAYER) == found["drafted"] > TOKENS // 2
    assert len(found["tokens"]) == TOKENS


@pytest.mark.parametrize("gamma", [0, 1, 3])
def test_both_sides_write_draft_and_accept_the_same(tiny_llama: Path, tiny_early_exit: Path, gamma: int) -> None:
    """The artifact drafts through the model's own head, as transformers does; the first round's share may differ by
    nothing but that ours starts after a token of the prefill."""
    theirs = by_transformers(tiny_llama, EXIT_LAYER, gamma, 1)(PROMPT, TOKENS)
    ours = by_edgeskip(tiny_early_exit, EXIT_LAYER, gamma, 1)(PROMPT, TOKENS)
    assert ours["tokens"] == theirs["tokens"]
    assert ours["steps"] == TOKENS - 1
    assert bool(gamma) == bool(ours["drafted"]) == bool(theirs["drafted"])
    assert abs(ours["accepted"] - theirs["accepted"]) <= gamma


def turn(speed: float, drafted: int = 0, accepted: int = 0, last: int = 3) -> Turn:
    return Turn(100, 100 / speed, drafted, accepted, [[1, 2, last]], 0.0, {})


def test_figures_by_hand() -> None:
    peer, ours = Path("hf"), Path("ee8")
    turns = {
        Side(PEER, peer, 0): [turn(10), turn(20)],
        Side("ee8", ours, 0): [turn(40), turn(40)],
        Side(PEER, peer, 4): [turn(5, 40, 4), turn(10, 40, 4)],
        Side("ee8", ours, 4): [turn(20, 40, 10, last=9), turn(30, 40, 10, last=9)],
    }
    rows = {(row["name"], row["gamma"]): row for row in rows_of(turns)}
    four = rows["ee8", 4]
    assert (four["over_peer"].low, four["over_peer"].high) == pytest.approx((3.0, 4.0))
    assert (four["over_plain"].low, four["over_plain"].high) == pytest.approx((0.5, 0.75))
    assert (four["acceptance"], four["same"]) == (0.25, [2])
    assert rows[PEER, 4]["over_peer"] is None
    assert rows[PEER, 4]["over_plain"].median == pytest.approx(0.5)
    assert [(t.what, t.met) for t in targets_of(list(rows.values()))] == [
        ("ee8, γ 4: speed over assistant_early_exit", True)
    ]
    text = table_of(list(rows.values())).markdown()
    assert "| ee8 | 4 | 25.0 [20.0 – 30.0] | 3.50 [3.00 – 4.00] | 0.625 [0.500 – 0.750] | 25.0% | 0 of 1 |" in text


def test_an_exit_that_the_artifact_has_not(tiny_llama: Path, tiny_early_exit: Path, prompt_data: Path) -> None:
    with pytest.raises(EdgeSkipError, match="has no exit after 2 blocks; its exits: 1"):
        speculation_vs_transformers.speculation_vs_transformers(str(tiny_llama), [tiny_early_exit], 2, prompts=1)
    with pytest.raises(EdgeSkipError, match="auto: give numbers from 1"):
        speculation_vs_transformers.speculation_vs_transformers(
            str(tiny_llama), [tiny_early_exit], EXIT_LAYER, "2,auto"
        )
    with pytest.raises(EdgeSkipError, match="two entries are called early-exit"):
        speculation_vs_transformers.speculation_vs_transformers(str(tiny_llama), [tiny_early_exit] * 2, EXIT_LAYER)


@pytest.mark.slow  # a process a side, each of which imports torch
def test_from_end_to_end(
    tiny_llama: Path, tiny_early_exit: Path, prompt_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.json"
    speculation_vs_transformers.speculation_vs_transformers(
        str(tiny_llama), [tiny_early_exit], EXIT_LAYER, num_speculations="2", prompts=2, tokens=8, rounds=1, threads=1,
        python=None, json_file=target,
    )  # fmt: skip
    result = json.loads(target.read_text())
    assert [(one["name"], one["gamma"], one["same"]) for one in result["data"]] == [
        (name, gamma, [8, 8]) for gamma in (0, 2) for name in (PEER, tiny_early_exit.name)
    ]
    assert all(f"{name} " in result["tables"][0]["versions"] for name in ("transformers", "torch", "onnxruntime"))
    assert "| 2 of 2 |" in capsys.readouterr().out
