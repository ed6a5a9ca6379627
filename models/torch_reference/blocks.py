"""Where the sublayers of a transformers model are: the modules that hooks attach to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeskip.core.errors import EdgeSkipError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class TorchBlock:
    """One pre-norm transformer block: x → x + attention(norm(x)) → x + ffn(norm(x)).

    The input of `attention_norm` is the residual stream before attn, the input of `ffn_norm` is the stream
    between the two, the output of `module` is the stream after ffn.
    """

    module: nn.Module
    attention_norm: nn.Module
    attention: nn.Module
    ffn_norm: nn.Module
    ffn: nn.Module


def blocks_of(model: nn.Module) -> tuple[TorchBlock, ...]:
    """Return the blocks of a transformers causal language model, in order.

    These attribute names hold for Llama, Mistral, Qwen2, Qwen3 and SmolLM3, and not for families whose norms
    stand elsewhere (post-norms, parallel sublayers): EdgeSkipError for those.
    """
    layers = getattr(getattr(model, "model", None), "layers", None)
    if layers is None:
        raise EdgeSkipError(f"{type(model).__name__} keeps its blocks elsewhere than model.layers: unsupported model")
    found = []
    for layer in layers:
        children = dict(layer.named_children())
        expected = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}
        if set(children) != expected:
            raise EdgeSkipError(
                f"{type(layer).__name__} consists of {', '.join(sorted(children))}; "
                f"only blocks of {', '.join(sorted(expected))} can be calibrated"
            )
        found.append(
            TorchBlock(
                module=layer,
                attention_norm=children["input_layernorm"],
                attention=children["self_attn"],
                ffn_norm=children["post_attention_layernorm"],
                ffn=children["mlp"],
            )
        )
    return tuple(found)


def first_tensor(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the hidden states among a module's outputs: attention and, in transformers 4, blocks may return tuples."""
    return output[0] if isinstance(output, tuple) else output
