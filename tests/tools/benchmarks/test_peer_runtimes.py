"""The peer benchmark's tables from fixed runs. Oracle: hand calculation."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.results import Results
from harness.runtimes import Contestant, Run
from harness.work_left import Prediction
from peer_runtimes import rows_of, tables_of, targets_of

PROMPT = 4


def contestant(name: str, worker: str, precision: str = "fp32") -> Contestant:
    ours = worker == "edgeskip"
    return Contestant(name, Path("python"), f"{worker}_worker.py", Path("folder"), precision, ours=ours)


CONTESTANTS = [
    contestant("ours", "edgeskip"),
    contestant("ours skipped", "edgeskip"),
    contestant("genai", "genai"),
    contestant("optimum", "optimum"),
    contestant("genai int4", "genai", "int4"),
]
RUNS = {
    "ours": [Run((1, 2, 3), 1.0, (0.1, 0.1), 1 << 20, 0.01, {"runtime_s": 0.192})],
    "ours skipped": [Run((9, 9, 9), 0.8, (0.09, 0.09), 1 << 20)],
    "genai": [Run((1, 2, 3), 1.5, (0.2, 0.2), 2 << 20)],
    "optimum": [Run((1, 7, 3), 3.0, (0.1, 0.2), 3 << 20)],
    "genai int4": [Run((1, 2, 3), 1.5, (0.2, 0.2), 2 << 20, 0.6)],
}
LABELS = {"ours": "dense", "ours skipped": "lossy-skip"}
PREDICTIONS = {"ours skipped": Prediction(decode_bytes_ratio=0.75, decode_flops_ratio=0.8, prefill_flops_ratio=0.7)}
ROWS = rows_of(CONTESTANTS, RUNS, LABELS, PREDICTIONS, PROMPT)


def test_each_row_is_compared_with_our_dense_artifact_of_its_precision() -> None:
    dense, skipped, genai, optimum, other = ROWS
    assert dense.ratios is None
    assert skipped.ratios is not None
    assert skipped.ratios.decode.median == pytest.approx(0.9)
    assert genai.ratios is not None
    assert (genai.ratios.prefill.median, genai.ratios.decode.median) == pytest.approx((1.5, 2.0))
    assert optimum.ratios is not None
    assert other.ratios is None  # we have no int4 artifact here


def test_tokens_are_compared_only_where_they_should_be_the_same() -> None:
    assert [row.same_tokens for row in ROWS] == [None, None, 3, 1, None]


def test_targets() -> None:
    targets = {target.what: target for target in targets_of(ROWS)}
    assert {what: target.met for what, target in targets.items()} == {
        "Python's share of decode in ours": True,
        "time per token of ours skipped over its prediction": False,
        "decode against genai": True,
        "prefill against genai": False,
        "decode against optimum": False,
    }
    # 0.9 of dense's time where the larger of its ratios predicts 0.8
    assert targets["time per token of ours skipped over its prediction"].measured.median == pytest.approx(1.125)
    assert targets["Python's share of decode in ours"].measured.median == pytest.approx(0.04)


def test_a_table_for_each_precision_says_lossy() -> None:
    busy = [row.figures.others_cores for row in ROWS]
    text = Results("x", {}, tables_of(ROWS, PROMPT, 3), targets_of(ROWS), others_cores=busy).markdown()
    assert "| genai | 3 [3 – 3] | 5.0 [5.0 – 5.0] | 1.50 [1.50 – 1.50] | 2.00 [2.00 – 2.00] | 2 MiB | 3 of 3 |" in text
    assert "| ours skipped (lossy-skip) | 5 [5 – 5] | 11.1 [11.1 – 11.1] | 0.80" in text
    assert text.count("| tg3 tok/s |") == 2
    assert "| prefill against genai | ≥ 2 | 1.500 [1.500 – 1.500] | NO |" in text
    assert "other processes kept 0.60 cores busy" in text
