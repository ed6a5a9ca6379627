"""GGUF metadata -> what Hugging Face's config.json and generation_config.json would have said."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeskip.artifacts.gguf.header import GgufHeader
from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.decoder import Float32
from edgeskip.models.families.architecture_config import ArchitectureConfig
from edgeskip.models.families.family import Family
from edgeskip.models.families.registry import FAMILIES, family_of_gguf
from edgeskip.models.families.rope import llama3_frequencies

_NO_ROPE_INTERVAL = 4  # llama.cpp fixes this for smollm3 (n_no_rope_layer_step); the file does not say


def gguf_family(metadata: dict[str, Any], file: str) -> Family:
    """Return the family of a GGUF. llama.cpp keeps a Mistral with a sliding window under `llama` too."""
    settings = ArchitectureConfig(metadata, file)
    architecture = settings.text("general.architecture", "unknown")
    if settings.integer("split.count", 1, least=0) > 1:
        raise EdgeSkipError(f"{file} is one part of a split GGUF: join the parts with  llama-gguf-split --merge")
    if settings.integer(f"{architecture}.expert_count", 0, least=0) > 0:
        raise EdgeSkipError(f"{file}: mixture-of-experts models are not supported")
    if architecture == "llama" and settings.has("llama.attention.sliding_window"):
        return FAMILIES["mistral"]
    return family_of_gguf(architecture, file)


def gguf_config(header: GgufHeader, file: str, rope_factors: Float32 | None) -> dict[str, Any]:
    """Return a config.json for the model; `rope_factors` is the tensor `rope_freqs.weight`, if the file has one."""
    metadata = ArchitectureConfig(header.metadata, file)
    family = gguf_family(header.metadata, file)
    name = metadata.text("general.architecture", "")
    if "token_embd.weight" not in header.tensors:
        raise EdgeSkipError(f"{file}: the weights lack 'token_embd.weight': fetch the model again")
    hidden, heads = metadata.integer(f"{name}.embedding_length"), metadata.integer(f"{name}.attention.head_count")
    head_dim = metadata.integer(f"{name}.attention.key_length", max(hidden // heads, 1))
    for key in (f"{name}.attention.value_length", f"{name}.rope.dimension_count"):
        if metadata.integer(key, head_dim) != head_dim:
            raise metadata.wrong(key, f"the head size {head_dim}")
    context = metadata.integer(f"{name}.context_length")
    theta = metadata.number(f"{name}.rope.freq_base", 10_000.0)
    config: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[family.name]],
        "model_type": family.name,
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "intermediate_size": metadata.integer(f"{name}.feed_forward_length"),
        "num_hidden_layers": metadata.integer(f"{name}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.integer(f"{name}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": context,
        "rms_norm_eps": metadata.number(f"{name}.attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "rope_theta": theta,
        "rope_scaling": _rope_scaling(metadata, name, theta, head_dim, rope_factors),
        **_special_ids(metadata),
    }
    if family.name in ("llama", "qwen3", "smollm3"):
        config["attention_bias"] = "blk.0.attn_q.bias" in header.tensors
    if family.name in ("llama", "smollm3"):
        config["mlp_bias"] = "blk.0.ffn_up.bias" in header.tensors
    if family.name == "mistral":
        config["sliding_window"] = metadata.integer("llama.attention.sliding_window")
    if family.name == "smollm3":
        config["no_rope_layer_interval"] = _NO_ROPE_INTERVAL
    return config


_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}


def gguf_generation_config(metadata: dict[str, Any], file: str) -> dict[str, Any]:
    """Return the special token ids; every end-of-generation token that the file names is an `eos_token_id`."""
    settings = ArchitectureConfig(metadata, file)
    ids = _special_ids(settings)
    ends = [ids["eos_token_id"]] if "eos_token_id" in ids else []
    for key in ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"):
        if settings.has(key) and settings.integer(key, least=0) not in ends:
            ends.append(settings.integer(key, least=0))
    if len(ends) > 1:
        ids["eos_token_id"] = ends
    return ids


def _special_ids(metadata: ArchitectureConfig) -> dict[str, Any]:
    keys = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    named = {key: f"tokenizer.ggml.{name}_token_id" for key, name in keys.items()}
    return {key: metadata.integer(name, least=0) for key, name in named.items() if metadata.has(name)}


def _rope_scaling(
    metadata: ArchitectureConfig, name: str, theta: float, head_dim: int, factors: Float32 | None
) -> dict[str, Any] | None:
    key = f"{name}.rope.scaling"
    kind = metadata.text(f"{key}.type", "none")
    if factors is not None:
        if kind not in ("none", "linear") or metadata.number(f"{key}.factor", 1.0) != 1.0:
            raise EdgeSkipError(f"{metadata.file}: rope factors together with {kind!r} rope scaling are not supported")
        return _llama3_scaling(metadata.file, factors, theta, head_dim)
    if kind == "none" or (kind == "linear" and not metadata.has(f"{key}.factor")):
        # Before there were types, a lone `scale_linear` meant linear scaling.
        old = metadata.number(f"{name}.rope.scale_linear", 1.0)
        return None if old == 1.0 else {"rope_type": "linear", "factor": old}
    factor = metadata.number(f"{key}.factor")
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise EdgeSkipError(f"{metadata.file}: rope scaling {kind!r} is not supported; supported are linear and yarn")
    scaling: dict[str, Any] = {"rope_type": "yarn", "factor": factor}
    if metadata.has(f"{key}.original_context_length"):
        scaling["original_max_position_embeddings"] = metadata.integer(f"{key}.original_context_length")
    for ours, theirs in (("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")):
        if metadata.has(f"{key}.{theirs}"):
            scaling[ours] = metadata.number(f"{key}.{theirs}")
    for unsupported, neutral in (("yarn_ext_factor", 1.0), ("yarn_attn_factor", 1.0), ("attn_factor", 1.0)):
        if metadata.has(f"{key}.{unsupported}") and metadata.number(f"{key}.{unsupported}") != neutral:
            raise EdgeSkipError(f"{metadata.file}: {key}.{unsupported} other than {neutral} is not supported")
    return scaling


def _llama3_scaling(file: str, factors: Float32, theta: float, head_dim: int) -> dict[str, Any] | None:
    """Return the Llama 3.1 parameters behind a tensor of per-frequency divisors.

    In rotations over the original context the blend is a straight line between `low_freq_factor` and
    `high_freq_factor`; only their ratios to the context matter, so low = 1 is a choice, as Llama itself makes.
    """
    if factors.shape != (head_dim // 2,) or not np.all(np.isfinite(factors)) or np.any(factors <= 0):
        raise EdgeSkipError(f"{file}: 'rope_freqs.weight' is not {head_dim // 2} positive numbers: fetch it again")
    if np.all(factors == 1):
        return None
    plain = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    factor = float(factors.max())
    candidates = [(1.0, 4.0, 8192.0)]  # Llama 3.1, 3.2 and 3.3
    blend = (1 / factors.astype(np.float64) - 1 / factor) / (1 - 1 / factor)
    middle = (blend > 1e-4) & (blend < 1 - 1e-4)
    turns = plain[middle] / (2 * np.pi)  # per token
    if middle.any():  # Llama's 1 and 4 with another original context
        candidates.append((1.0, 4.0, float(round((1 + 3 * blend[middle][0]) / turns[0]))))
    if middle.sum() >= 2:
        slope, offset = np.polyfit(turns, blend[middle], 1)
        if offset < 0:
            high = 1 - 1 / offset
            candidates.append((1.0, float(high), float(round(slope * (high - 1)))))
    for low, high, original in candidates:
        found = llama3_frequencies(plain, factor=factor, low=low, high=high, original=original)
        if np.allclose(found * factors, plain, rtol=1e-4, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": int(original),
            }
    raise EdgeSkipError(f"{file}: 'rope_freqs.weight' is not Llama 3's scaling; no other is supported")
