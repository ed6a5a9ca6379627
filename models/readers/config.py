"""config.json -> the same config with nothing left to assume: defaults filled in, rotary settings spelled one way."""

from __future__ import annotations

from typing import Any

from edgeskip.models.families.architecture_config import ArchitectureConfig
from edgeskip.models.families.family import Family
from edgeskip.models.families.rope import legacy_rope_settings
from edgeskip.models.readers.quantized import quantization_error, quantized_by_config

# Keys that name code or the tool that wrote the file, not the model.
_DROPPED = ("auto_map", "rope_parameters", "_name_or_path", "transformers_version", "quantization_config")


def complete_config(family: Family, settings: ArchitectureConfig) -> dict[str, Any]:
    """Return a config that transformers 4.57, 5.x and every other reader understand in the same way.

    Rotary settings become `rope_theta` and `rope_scaling` (with `rope_type`); what a config class of transformers
    would assume if the file is silent is written out. EdgeSkipError for anything unsupported.
    """
    if (method := quantized_by_config(settings.values)) is not None:
        raise quantization_error(settings.file, method)
    if settings.text("hidden_act", "silu") not in ("silu", "swish"):
        raise settings.wrong("hidden_act", "'silu' (no other activation is supported)")
    defaults = family.defaults
    hidden, heads = settings.integer("hidden_size"), settings.integer("num_attention_heads")
    kv_heads = settings.integer("num_key_value_heads", defaults.get("num_key_value_heads", heads))
    head_dim = settings.integer("head_dim", defaults.get("head_dim", max(hidden // heads, 1)), most=65536)
    if heads % kv_heads:
        raise settings.wrong("num_key_value_heads", f"a divisor of num_attention_heads = {heads}")
    if head_dim % 2:
        raise settings.wrong("head_dim", "an even number")
    theta, scaling = legacy_rope_settings(settings, defaults.get("rope_theta", 10_000.0))
    return {
        **{key: value for key, value in settings.values.items() if key not in _DROPPED},
        "model_type": family.name,
        "vocab_size": settings.integer("vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": settings.integer("intermediate_size"),
        "num_hidden_layers": settings.integer("num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": settings.number("rms_norm_eps", 1e-6),
        "max_position_embeddings": settings.integer(
            "max_position_embeddings", defaults.get("max_position_embeddings", 2048)
        ),
        "tie_word_embeddings": settings.flag("tie_word_embeddings", defaults.get("tie_word_embeddings", False)),
        "rope_theta": theta,
        "rope_scaling": scaling,
    }
