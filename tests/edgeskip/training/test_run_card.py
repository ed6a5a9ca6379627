"""What a finished run says. Oracle: lines written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from edgeskip.training.run_card import in_words

EXAMPLES = {"learned": 9, "held_out": 1, "too_long": {}}


@pytest.mark.parametrize(
    ("held_out", "lines"),
    [
        (
            {"tokens": 6370, "loss": 0.08, "accuracy": 0.977, "exits": {5: {"loss": 0.9, "agreement": 0.8576}}},
            ["agreement with the last layer on 6,370 tokens held out:", "  exit 5  85.8%", "last layer: 97.7% of them"],
        ),
        (
            {"tokens": 1200, "exits": {2: {"agreement": 0.886, "plain_agreement": 0.13}}},
            ["agreement with the last layer on 1,200 tokens held out:", "  exit 2  88.6% (untrained 13.0%)"],
        ),
        (
            {"tokens": 2000.0, "dense_perplexity": 23.6, "skipped_perplexity": 44.0, "healed_perplexity": 26.44},
            ["perplexity of the 2,000 tokens held out: dense 23.60, skipped 44.00, healed 26.44"],
        ),
    ],
)
def test_what_each_method_says(held_out: dict[str, Any], lines: list[str]) -> None:
    found = in_words({"held_out": held_out, "examples": EXAMPLES}).splitlines()
    assert len(found) == len(lines)
    assert all(line.startswith(wanted) for line, wanted in zip(found, lines, strict=True))


def test_pairs_that_were_left_out_are_told() -> None:
    card = {"held_out": {"tokens": 1, "exits": {}}, "examples": EXAMPLES | {"too_long": {"pairs.jsonl": 3}}}
    assert in_words(card).splitlines()[0] == "pairs.jsonl: 3 too long for --context, left out"
