"""Mistral 7B and kin: an explicit head size, and a sliding window on every block if the config sets one."""

from __future__ import annotations

from edgeskip.models.families.architecture_config import ArchitectureConfig
from edgeskip.models.families.family import Family, Traits


def _traits(settings: ArchitectureConfig, num_blocks: int) -> list[Traits]:
    if settings.has("layer_types"):
        # transformers' Mistral ignores the list: neither reading of it can be right.
        raise settings.wrong("layer_types", "no such key in a Mistral model")
    window = settings.integer("sliding_window") if settings.has("sliding_window") else None
    return [Traits(window=window)] * num_blocks


# llama.cpp stores a Mistral as its `llama` architecture; without a sliding window it is read as Llama.
MISTRAL = Family(
    name="mistral",
    traits=_traits,
    defaults={"num_key_value_heads": 8, "max_position_embeddings": 131072},
    gguf_interleaved=True,
)
