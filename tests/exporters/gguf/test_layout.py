"""Kept sublayers paired into llama.cpp's blocks, and the architecture that holds them. Oracle: worked out by hand.

A block is written attention|FFN: `a1|f1`, `-` no attention, `0` a stub, `b` a stub with a bias.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_models import rope_config, tiny_checkpoint
from variants import LLAMA3, random_plan

from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.bake import bake
from edgeskip.exporters.gguf.layout import Layout, Stub, lay_out
from edgeskip.models.decoder import Attention, Decoder, FeedForward, constant
from edgeskip.models.source import open_model


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Decoder]:
    folder = tmp_path_factory.mktemp("models")
    settings = {
        "llama": {},
        "mistral": {},
        "qwen2": {},
        "qwen3": {},
        "smollm3": {"no_rope_layers": [1, 1, 1, 0]},
        "qwen3 with biases": {"attention_bias": True},
        "qwen2 with llama3 rope": rope_config(scaling=LLAMA3),
    }
    return {
        name: open_model(str(tiny_checkpoint(name.split()[0], folder / name, **overrides))).decoder
        for name, overrides in settings.items()
    }


def keeping(decoder: Decoder, names: str) -> Decoder:
    """The decoder with the sublayers of `a0 f0 a1` …"""
    kept = [s for s in decoder.sublayers if _name(s) in names.split()]
    assert len(kept) == len(names.split())
    return replace(decoder, sublayers=tuple(kept))


def _name(half: Attention | FeedForward | Stub | None) -> str:
    if half is None:
        return "-"
    if isinstance(half, Stub):
        return "0" if half.bias is None else "b"
    return f"{'a' if isinstance(half, Attention) else 'f'}{half.block}"


def drawn(layout: Layout) -> str:
    return " ".join(f"{_name(block.attention)}|{_name(block.feed_forward)}" for block in layout.blocks)


ALL = "a0 f0 a1 f1 a2 f2 a3 f3"


@pytest.mark.parametrize(
    ("kept", "architecture", "blocks"),
    [
        (ALL, "llama", "a0|f0 a1|f1 a2|f2 a3|f3"),
        ("a0 f0 a2 f2 a3 f3", "llama", "a0|f0 a2|f2 a3|f3"),  # a whole block
        ("a0 f1 a2 f2 a3 f3", "llama", "a0|f1 a2|f2 a3|f3"),  # an FFN and the next attention: still alternating
        ("a2 f3", "llama", "a2|f3"),
        ("a0 f0 f1 a2 f2 a3 f3", "deci", "a0|f0 -|f1 a2|f2 a3|f3"),  # attention-free
        ("a0 f0 a1 a2 f2 a3 f3", "deci", "a0|f0 a1|0 a2|f2 a3|f3"),  # an FFN's stub
        ("a0 f0 a1 f1 a2 f2 a3", "deci", "a0|f0 a1|f1 a2|f2 a3|0"),  # the last FFN
        ("a0 f0 a1 f1 a2 f2 f3", "deci", "a0|f0 a1|f1 a2|f2 -|f3"),
        ("f0 a1 f1 a2 f2 a3 f3", "deci", "0|f0 a1|f1 a2|f2 a3|f3"),  # the first block needs a head
        ("f0 f1 f2 f3", "deci", "0|f0 -|f1 -|f2 -|f3"),
        ("a0 a1 a2 a3", "deci", "a0|0 a1|0 a2|0 a3|0"),
        ("f3", "deci", "0|f3"),
        ("a3", "deci", "a3|0"),
        ("f0 a1 a2 f3", "deci", "0|f0 a1|0 a2|f3"),
    ],
)
def test_pairs(decoders: dict[str, Decoder], kept: str, architecture: str, blocks: str) -> None:
    layout = lay_out(keeping(decoders["llama"], kept))
    assert (layout.architecture, drawn(layout)) == (architecture, blocks)
    assert layout.interleaved


@pytest.mark.parametrize(
    ("kept", "blocks"),
    [
        (ALL, "b|0 a0|f0 a1|f1 a2|f2 a3|f3"),
        ("f0 a1 f1", "b|f0 a1|f1"),
        ("a1 a2 f2", "b|0 a1|0 a2|f2"),
        ("f3", "b|f3"),
    ],
)
def test_a_bias_before_everything_is_a_stubs(decoders: dict[str, Decoder], kept: str, blocks: str) -> None:
    """It comes from skipped first sublayers, and shares a block with an FFN where one follows."""
    bias = constant("bias", np.ones(64, np.float32))
    layout = lay_out(replace(keeping(decoders["llama"], kept), embedding_bias=bias))
    assert (layout.architecture, drawn(layout)) == ("deci", blocks)
    stub = layout.blocks[0].attention
    assert isinstance(stub, Stub)
    assert stub.bias is bias


def test_a_trailing_stub(decoders: dict[str, Decoder]) -> None:
    layout = lay_out(keeping(decoders["llama"], "a0 f0 a1"), trailing_stub=True)
    assert (layout.architecture, drawn(layout)) == ("deci", "a0|f0 a1|0 -|0")


@pytest.mark.parametrize(
    ("family", "own", "interleaved"),
    [("mistral", "llama", True), ("qwen2", "qwen2", False), ("qwen3", "qwen3", False), ("smollm3", "smollm3", True)],
)
def test_a_family_of_its_own(decoders: dict[str, Decoder], family: str, own: str, interleaved: bool) -> None:
    layout = lay_out(decoders[family])
    assert (layout.architecture, layout.interleaved) == (own, interleaved)
    assert drawn(layout) == "a0|f0 a1|f1 a2|f2 a3|f3"


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_deci_where_it_is_wanted_or_needed(decoders: dict[str, Decoder], family: str) -> None:
    """It rotates adjacent pairs, whatever the family's own architecture does."""
    wanted = lay_out(decoders[family], architecture="deci")
    needed = lay_out(keeping(decoders[family], "a0 f0 f1"))
    assert [(layout.architecture, layout.interleaved) for layout in (wanted, needed)] == [("deci", True)] * 2


def test_what_qwen2_itself_lacks(decoders: dict[str, Decoder]) -> None:
    """A bias on the FFN that takes a compensation's, and Llama 3's frequencies: deci has both."""
    affine = random_plan(["attn.1", "ffn.1"], "affine", num_blocks=4, hidden_size=64)
    layout = lay_out(bake(decoders["qwen2"], affine))
    assert (layout.architecture, drawn(layout)) == ("deci", "a0|f0 a2|f2 a3|f3")
    layout = lay_out(decoders["qwen2 with llama3 rope"])
    assert (layout.architecture, drawn(layout)) == ("deci", "a0|f0 a1|f1 a2|f2 a3|f3")


@pytest.mark.parametrize(
    ("name", "kept", "own", "deci"),
    [
        ("qwen3", "a0 f0 f1", "an attention and an FFN in every block", "no query and key norms"),
        ("qwen3 with biases", ALL, "no bias on what a sublayer adds", "no query and key norms"),
        ("smollm3", "a0 f0 a1 f1 a2 f2 a3", "an attention and an FFN in every block", "rope in block 3 of the file"),
        ("smollm3", "a0 f0 a1 f1 a3 f3", "rope in block 2 of the file", "rope in block 2 of the file"),
    ],
)
def test_what_neither_holds(decoders: dict[str, Decoder], name: str, kept: str, own: str, deci: str) -> None:
    """One line: both obstacles, and what this family can do instead."""
    with pytest.raises(EdgeSkipError) as info:
        lay_out(keeping(decoders[name], kept))
    message, family = str(info.value), name.split()[0]
    start = f"llama.cpp cannot hold this plan: its architecture {family!r} has {own} and 'deci' has {deci}; "
    assert message.startswith(f"{start}for {family} skip whole blocks, e.g. --skip attn.7,ffn.7")
    assert ("without rope" in message) == (family == "smollm3")
    assert message.endswith("with compensation none or scale")


@pytest.mark.parametrize("name", ["qwen3", "smollm3"])
def test_a_stub_that_the_family_cannot_have(decoders: dict[str, Decoder], name: str) -> None:
    """So that an early exit of it is a draft alone."""
    with pytest.raises(EdgeSkipError, match="cannot hold"):
        lay_out(decoders[name], trailing_stub=True)
    assert lay_out(decoders[name]).architecture == name
