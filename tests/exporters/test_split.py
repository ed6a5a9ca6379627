"""A model cut at exits. Oracle: lists by hand, and for the plan of a first part its logits (`onnx/test_drafts.py`)."""

from __future__ import annotations

from pathlib import Path

import pytest
from variants import random_plan

from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.bake import bake
from edgeskip.exporters.split import exit_plan, parts_of
from edgeskip.models.decoder import Decoder
from edgeskip.models.source import open_model


@pytest.fixture
def decoder(tiny_llama: Path) -> Decoder:
    return open_model(str(tiny_llama)).decoder


@pytest.mark.parametrize(
    ("skip", "layers", "expected"),
    [
        ((), [1], ["attn.0 ffn.0", "attn.1 ffn.1 attn.2 ffn.2 attn.3 ffn.3"]),
        ((), [1, 2, 3], ["attn.0 ffn.0", "attn.1 ffn.1", "attn.2 ffn.2", "attn.3 ffn.3"]),
        (("ffn.0", "attn.1", "attn.3"), [1, 2], ["attn.0", "ffn.1", "attn.2 ffn.2 ffn.3"]),
    ],
)
def test_every_kept_sublayer_is_of_one_part(
    decoder: Decoder, skip: tuple[str, ...], layers: list[int], expected: list[str]
) -> None:
    baked = bake(decoder, random_plan(list(skip), "none", num_blocks=4, hidden_size=64))
    assert [" ".join(str(s.sublayer) for s in part) for part in parts_of(baked, layers)] == expected


@pytest.mark.parametrize(
    ("block", "told"),
    [(0, "before the exit layer:"), (1, "between the exit layers:"), (3, "after the exit layer:")],
)
def test_a_part_of_nothing(decoder: Decoder, block: int, told: str) -> None:
    plan = random_plan([f"attn.{block}", f"ffn.{block}"], "none", num_blocks=4, hidden_size=64)
    with pytest.raises(EdgeSkipError, match=f"every sublayer {told} choose another --exit-layer"):
        parts_of(bake(decoder, plan), [1, 2, 3])


def test_the_plan_of_a_first_part() -> None:
    """Skips before the exit stay, so do those right after it, as their bias is in the part; the rest is left out."""
    plan = random_plan(["ffn.0", "attn.2", "ffn.2", "ffn.3"], "affine", num_blocks=4, hidden_size=64)
    found = exit_plan(plan, 2)
    assert [str(s.sublayer) for s in found.skips] == ["ffn.0", "attn.2", "ffn.2", "attn.3", "ffn.3"]
    assert found.skips[:3] == plan.skips[:3]
    assert [(s.scale, s.bias) for s in found.skips[3:]] == [(1.0, None)] * 2
