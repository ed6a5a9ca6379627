"""What distinguishes one model family from another, as data: names of its parameters and traits of its blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeskip.models.families.architecture_config import ArchitectureConfig


@dataclass(frozen=True)
class Traits:
    """What the config says of one block beyond its sizes.

    `window`: tokens a query sees, itself included; None = all before it.
    """

    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    rotary: bool = True
    window: int | None = None


@dataclass(frozen=True)
class Family:
    """A model family: a pre-norm decoder with RMSNorm, grouped-query attention, rotary positions and SwiGLU.

    `defaults` are values that transformers' config class assumes if config.json is silent. `traits(settings,
    num_blocks)` gives one `Traits` for each block. `gguf_architecture` is llama.cpp's name and `gguf_interleaved`
    says that its converter reorders the rows of q and k for adjacent-pair rotation.
    """

    name: str
    traits: Callable[[ArchitectureConfig, int], list[Traits]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    gguf_architecture: str | None = None
    gguf_interleaved: bool = False


def layer_windows(settings: ArchitectureConfig, num_blocks: int, *, default: list[bool]) -> list[int | None]:
    """Return the sliding window of each block in tokens, from `layer_types` if given, else for the blocks in `default`.

    Follows transformers: `layer_types` decides, `sliding_window` is the size.
    """
    kinds = settings.per_block("layer_types", num_blocks)
    if kinds is None:
        sliding = default
    else:
        if not all(kind in ("full_attention", "sliding_attention") for kind in kinds):
            raise settings.wrong("layer_types", "a list of 'full_attention' and 'sliding_attention'")
        sliding = [kind == "sliding_attention" for kind in kinds]
    return [settings.integer("sliding_window") if slides else None for slides in sliding]
