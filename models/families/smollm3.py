"""SmolLM3: Llama with no rotary embedding on some blocks (every fourth unless the config lists them)."""

from __future__ import annotations

from edgeskip.models.families.architecture_config import ArchitectureConfig
from edgeskip.models.families.family import Family, Traits, layer_windows


def _traits(settings: ArchitectureConfig, num_blocks: int) -> list[Traits]:
    # `no_rope_layers` reads backwards: 1 marks a block that *has* rotary positions (transformers' SmolLM3Config).
    marks = settings.per_block("no_rope_layers", num_blocks)
    if marks is None:
        interval = settings.integer("no_rope_layer_interval", 4)
        marks = [int((block + 1) % interval != 0) for block in range(num_blocks)]
    if not all(mark in (0, 1) for mark in marks):
        raise settings.wrong("no_rope_layers", "a list of 0 (no rotary positions) and 1")
    slides = settings.flag("use_sliding_window") and settings.has("sliding_window")
    windows = layer_windows(settings, num_blocks, default=[slides and not mark for mark in marks])
    attention, mlp = settings.flag("attention_bias"), settings.flag("mlp_bias")
    return [
        Traits(qkv_bias=attention, o_bias=attention, mlp_bias=mlp, rotary=bool(mark), window=window)
        for mark, window in zip(marks, windows, strict=True)
    ]


SMOLLM3 = Family(
    name="smollm3",
    traits=_traits,
    defaults={
        "num_key_value_heads": 4,
        "rope_theta": 2_000_000.0,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    },
    gguf_architecture="smollm3",
    gguf_interleaved=True,
)
