"""Llama 2 and 3, SmolLM2 and everything else whose config.json says `llama`."""

from __future__ import annotations

from edgeskip.models.families.architecture_config import ArchitectureConfig
from edgeskip.models.families.family import Family, Traits


def _traits(settings: ArchitectureConfig, num_blocks: int) -> list[Traits]:
    attention, mlp = settings.flag("attention_bias"), settings.flag("mlp_bias")
    return [Traits(qkv_bias=attention, o_bias=attention, mlp_bias=mlp)] * num_blocks


LLAMA = Family(name="llama", traits=_traits, gguf_architecture="llama", gguf_interleaved=True)
