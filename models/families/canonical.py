"""Config and named weights -> canonical decoder, with every presence and shape checked before anything is read."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.decoder import Attention, Decoder, DecoderConfig, FeedForward, Linear, Norm, Tensor
from edgeskip.models.families.architecture_config import ArchitectureConfig
from edgeskip.models.families.family import Family, Traits
from edgeskip.models.families.rope import rope_of


def decoder_of(family: Family, settings: ArchitectureConfig, tensors: Mapping[str, Tensor]) -> Decoder:
    """Return the canonical decoder of a model.

    `settings` hold a completed config; `tensors` have Hugging Face's names.

    Raises EdgeSkipError if the config asks for something unsupported, a weight is missing or has another shape than
    the config says, or a block holds a weight that this family does not use (ignoring it would change the result).
    """
    config = _config(family, settings)
    reader = _Weights(tensors, settings.file)
    # Asked for first, so that an absurd number of blocks ends here.
    reader.take(f"model.layers.{config.num_blocks - 1}.input_layernorm.weight", config.hidden_size)
    traits = family.traits(settings, config.num_blocks)
    embedding = _embedding(reader, config)
    eps = settings.number("rms_norm_eps")
    sublayers: list[Attention | FeedForward] = []
    for block, trait in enumerate(traits):
        sublayers += [_attention(reader, config, block, trait, eps), _feed_forward(reader, config, block, trait, eps)]
    norm = Norm(reader.take("model.norm.weight", config.hidden_size), eps)
    head = None
    if not settings.flag("tie_word_embeddings"):
        if "lm_head.weight" not in tensors:
            raise EdgeSkipError(
                f"{settings.file}: the weights lack 'lm_head.weight', and 'tie_word_embeddings' is not true: if the "
                "model's head is its embedding, set that to true, else fetch the model again, all its files"
            )
        head = Linear(reader.take("lm_head.weight", config.vocab_size, config.hidden_size))
    elif "lm_head.weight" in tensors:
        _check_same(embedding, reader.take("lm_head.weight", config.vocab_size, config.hidden_size), settings)
    reader.refuse_unused(config.num_blocks)
    return Decoder(config, embedding, tuple(sublayers), norm, head)


def _embedding(reader: _Weights, config: DecoderConfig) -> Tensor:
    rows = reader.rows("model.embed_tokens.weight", config.hidden_size)
    if rows not in (None, config.vocab_size):
        raise EdgeSkipError(
            f"{reader.file}: 'vocab_size' is {config.vocab_size}, but 'model.embed_tokens.weight' has {rows} rows: set "
            f"it to {rows} if tokens were added or the embedding was padded; else config and weights are not of one "
            "model, fetch both again"
        )
    return reader.take("model.embed_tokens.weight", config.vocab_size, config.hidden_size)


def extra_block(
    family: Family, settings: ArchitectureConfig, tensors: Mapping[str, Tensor]
) -> tuple[Attention, FeedForward]:
    """Return an extra block, with the sizes and traits of the model's first.

    `tensors` have the names that they have within a block (`self_attn.q_proj.weight`). Errors are those of a model."""
    config = _config(family, settings)
    reader = _Weights({f"model.layers.0.{name}": tensor for name, tensor in tensors.items()}, settings.file)
    trait, eps = family.traits(settings, config.num_blocks)[0], settings.number("rms_norm_eps")
    block = _attention(reader, config, 0, trait, eps), _feed_forward(reader, config, 0, trait, eps)
    reader.refuse_unused(1)
    return block


def _check_same(embedding: Tensor, head: Tensor, settings: ArchitectureConfig) -> None:
    """Check a tied checkpoint that stores the head too: if the two differ, transformers 4 ties them and 5 does not."""
    if not np.array_equal(embedding.read(), head.read()):
        raise EdgeSkipError(
            f"{settings.file}: 'tie_word_embeddings' is true but 'lm_head.weight' is not the embedding: "
            "set it to false, or remove the weight"
        )


def _config(family: Family, settings: ArchitectureConfig) -> DecoderConfig:
    head_dim, max_positions = settings.integer("head_dim"), settings.integer("max_position_embeddings")
    return DecoderConfig(
        family=family.name,
        hidden_size=settings.integer("hidden_size"),
        intermediate_size=settings.integer("intermediate_size"),
        num_blocks=settings.integer("num_hidden_layers"),
        num_heads=settings.integer("num_attention_heads"),
        num_kv_heads=settings.integer("num_key_value_heads"),
        head_dim=head_dim,
        vocab_size=settings.integer("vocab_size"),
        max_positions=max_positions,
        rope=rope_of(settings, head_dim=head_dim, max_positions=max_positions),
    )


class _Weights:
    """Hands out weights by name and remembers which were taken."""

    def __init__(self, tensors: Mapping[str, Tensor], file: str) -> None:
        self._tensors = tensors
        self.file = file
        self._taken: set[str] = set()

    def take(self, name: str, *shape: int) -> Tensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise EdgeSkipError(f"{self.file}: the weights lack {name!r}: fetch the model again, all its files")
        if tensor.shape != shape:
            raise EdgeSkipError(
                f"{self.file}: {name!r} has shape {list(tensor.shape)}, but the config says {list(shape)}: "
                "config and weights are not of one model"
            )
        self._taken.add(name)
        return tensor

    def rows(self, name: str, width: int) -> int | None:
        """Return the rows of a matrix of that width; None if it is missing or has another shape."""
        tensor = self._tensors.get(name)
        return tensor.shape[0] if tensor is not None and tensor.shape[1:] == (width,) else None

    def linear(self, name: str, out: int, into: int, *, bias: bool) -> Linear:
        weight = self.take(f"{name}.weight", out, into)
        return Linear(weight, self.take(f"{name}.bias", out) if bias else None)

    def refuse_unused(self, num_blocks: int) -> None:
        for name in self._tensors:
            match = re.match(r"model\.layers\.(\d+)\.", name)
            if match is None or int(match[1]) >= num_blocks or name in self._taken:
                continue
            if not name.endswith("rotary_emb.inv_freq"):  # a buffer that old checkpoints carry; computed, not read
                raise EdgeSkipError(f"{self.file}: {name!r} is a weight that this family does not use; unsupported")


def _attention(reader: _Weights, config: DecoderConfig, block: int, trait: Traits, eps: float) -> Attention:
    name, d, size = f"model.layers.{block}", config.hidden_size, config.head_dim
    queries, keys = config.num_heads * size, config.num_kv_heads * size
    return Attention(
        block=block,
        norm=Norm(reader.take(f"{name}.input_layernorm.weight", d), eps),
        q=reader.linear(f"{name}.self_attn.q_proj", queries, d, bias=trait.qkv_bias),
        k=reader.linear(f"{name}.self_attn.k_proj", keys, d, bias=trait.qkv_bias),
        v=reader.linear(f"{name}.self_attn.v_proj", keys, d, bias=trait.qkv_bias),
        o=reader.linear(f"{name}.self_attn.o_proj", d, queries, bias=trait.o_bias),
        q_norm=Norm(reader.take(f"{name}.self_attn.q_norm.weight", size), eps) if trait.qk_norm else None,
        k_norm=Norm(reader.take(f"{name}.self_attn.k_norm.weight", size), eps) if trait.qk_norm else None,
        rotary=trait.rotary,
        window=trait.window,
    )


def _feed_forward(reader: _Weights, config: DecoderConfig, block: int, trait: Traits, eps: float) -> FeedForward:
    name, d, f = f"model.layers.{block}", config.hidden_size, config.intermediate_size
    return FeedForward(
        block=block,
        norm=Norm(reader.take(f"{name}.post_attention_layernorm.weight", d), eps),
        gate=reader.linear(f"{name}.mlp.gate_proj", f, d, bias=trait.mlp_bias),
        up=reader.linear(f"{name}.mlp.up_proj", f, d, bias=trait.mlp_bias),
        down=reader.linear(f"{name}.mlp.down_proj", d, f, bias=trait.mlp_bias),
    )
