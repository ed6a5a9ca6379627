"""Qwen3 (dense): RMSNorm on every head of q and k before the rotation; an explicit head size."""

from __future__ import annotations

from edgeskip.models.families.architecture_config import ArchitectureConfig
from edgeskip.models.families.family import Family, Traits
from edgeskip.models.families.qwen2 import qwen_windows


def _traits(settings: ArchitectureConfig, num_blocks: int) -> list[Traits]:
    bias = settings.flag("attention_bias")
    return [
        Traits(qkv_bias=bias, o_bias=bias, qk_norm=True, window=window) for window in qwen_windows(settings, num_blocks)
    ]


QWEN3 = Family(
    name="qwen3",
    traits=_traits,
    defaults={"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768},
    gguf_architecture="qwen3",
)
