"""Qwen2 and Qwen2.5: biases on q, k and v; a sliding window on the upper blocks if it is switched on."""

from __future__ import annotations

from edgeskip.models.families.architecture_config import ArchitectureConfig
from edgeskip.models.families.family import Family, Traits, layer_windows


def qwen_windows(settings: ArchitectureConfig, num_blocks: int) -> list[int | None]:
    """Return the window of each block: that of the config for blocks ≥ `max_window_layers`, if `use_sliding_window`."""
    first = num_blocks
    if settings.flag("use_sliding_window") and settings.has("sliding_window"):
        first = settings.integer("max_window_layers", 28, least=0)
    elif "sliding_attention" in (settings.per_block("layer_types", num_blocks) or []):
        raise settings.wrong("use_sliding_window", "true, with a 'sliding_window', as 'layer_types' lists one")
    return layer_windows(settings, num_blocks, default=[block >= first for block in range(num_blocks)])


def _traits(settings: ArchitectureConfig, num_blocks: int) -> list[Traits]:
    return [Traits(qkv_bias=True, window=window) for window in qwen_windows(settings, num_blocks)]


QWEN2 = Family(
    name="qwen2",
    traits=_traits,
    defaults={"num_key_value_heads": 32, "max_position_embeddings": 32768},
    gguf_architecture="qwen2",
)
