"""A decoder cut in two at an exit layer. Oracle: the lists of sublayers, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import tiny_checkpoint
from variants import random_plan

from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.bake import bake
from edgeskip.exporters.gguf.output_plan import first_part, rest_part
from edgeskip.exporters.split import check_exit_layer
from edgeskip.models.decoder import Decoder
from edgeskip.models.source import open_model


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder: Path = tmp_path_factory.mktemp("model")
    return open_model(str(tiny_checkpoint("llama", folder, tie_word_embeddings=request.param))).decoder


def names(decoder: Decoder) -> str:
    return " ".join(str(sublayer.sublayer) for sublayer in decoder.sublayers)


def baked(decoder: Decoder, *skip: str) -> Decoder:
    return bake(decoder, random_plan(list(skip), "affine", num_blocks=4, hidden_size=64))


@pytest.mark.parametrize(
    ("skip", "exit_layer", "first", "rest"),
    [
        ((), 1, "attn.0 ffn.0", "attn.1 ffn.1 attn.2 ffn.2 attn.3 ffn.3"),
        ((), 3, "attn.0 ffn.0 attn.1 ffn.1 attn.2 ffn.2", "attn.3 ffn.3"),
        (("attn.1", "ffn.1", "attn.2"), 2, "attn.0 ffn.0", "ffn.2 attn.3 ffn.3"),
        (("ffn.0", "attn.3"), 1, "attn.0", "attn.1 ffn.1 attn.2 ffn.2 ffn.3"),
    ],
)
def test_the_exit_layer_counts_the_models_blocks(
    decoder: Decoder, skip: tuple[str, ...], exit_layer: int, first: str, rest: str
) -> None:
    whole = baked(decoder, *skip)
    assert names(first_part(whole, exit_layer)) == first
    assert names(rest_part(whole, exit_layer)) == rest


def test_both_halves_have_the_norm_and_the_head(decoder: Decoder) -> None:
    """The rest's is where its embedding would be."""
    first, rest = first_part(decoder, 2), rest_part(decoder, 2)
    assert (first.embedding, first.head, first.norm) == (decoder.embedding, decoder.head, decoder.norm)
    assert rest.embedding is (decoder.head.weight if decoder.head else decoder.embedding)
    assert (rest.head, rest.norm) == (None, decoder.norm)


def test_a_bias_before_everything_is_the_firsts(decoder: Decoder) -> None:
    whole = baked(decoder, "attn.0")
    assert whole.embedding_bias is not None
    assert first_part(whole, 2).embedding_bias is whole.embedding_bias
    assert rest_part(whole, 2).embedding_bias is None


@pytest.mark.parametrize("exit_layer", [-1, 0, 4, 5])
def test_exit_layers_that_cannot_be(exit_layer: int) -> None:
    with pytest.raises(
        EdgeSkipError, match=f"--exit-layer {exit_layer} is not possible: the model has 4 blocks, .*1 … 3"
    ):
        check_exit_layer(exit_layer, 4)
    check_exit_layer(1, 2)


def test_halves_without_a_sublayer(decoder: Decoder) -> None:
    whole = baked(decoder, "attn.0", "ffn.0", "attn.3", "ffn.3")
    with pytest.raises(EdgeSkipError, match="every sublayer before the exit layer: choose another --exit-layer"):
        first_part(whole, 1)
    with pytest.raises(EdgeSkipError, match="every sublayer after the exit layer: choose another --exit-layer"):
        rest_part(whole, 3)
