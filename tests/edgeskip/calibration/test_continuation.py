"""Greedy continuations. Oracle: transformers' own `generate`."""

from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, tiny_model

from edgeskip.calibration.continuation import continue_greedily

PROMPTS = [[5, 9, 200, 31, 7], [11], [300, 2, 17]]


def generated(model: Any, prompt: list[int], count: int) -> list[int]:
    ids = torch.tensor([prompt])
    found = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count, eos_token_id=[], pad_token_id=0
    )
    return found[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_generate(family: str) -> None:
    """Rows of different length share a batch; each goes on as it would alone."""
    model = tiny_model(family)
    rows = continue_greedily(model, PROMPTS, new_tokens=12, end_tokens=frozenset())
    assert rows == [generated(model, prompt, 12) for prompt in PROMPTS]


def test_rows_end_before_their_end_token() -> None:
    model = tiny_model("llama")
    whole = [generated(model, prompt, 12) for prompt in PROMPTS]
    end = whole[0][4]
    running: list[list[bool]] = []
    rows = continue_greedily(
        model,
        PROMPTS,
        new_tokens=12,
        end_tokens=frozenset({end}),
        before_step=lambda alive: running.append(alive[:, 0].tolist()),
    )
    expected = [row[: row.index(end)] if end in row else row for row in whole]
    assert rows == expected
    assert [sum(column) for column in zip(*running, strict=True)] == [len(row) for row in expected]


def test_stops_when_every_row_has_ended() -> None:
    model = tiny_model("llama")
    ends = frozenset(generated(model, prompt, 1)[0] for prompt in PROMPTS)
    steps: list[Any] = []
    assert continue_greedily(model, PROMPTS, new_tokens=50, end_tokens=ends, before_step=steps.append) == [[], [], []]
    assert steps == []
