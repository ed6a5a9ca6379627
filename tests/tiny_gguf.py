"""Writes a transformers model as GGUF the way llama.cpp's converter does, with the gguf package's own writer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Kind = gguf.GGMLQuantizationType
INTERLEAVED = ("llama", "smollm3")  # convert_hf_to_gguf.py: LlamaModel and what derives from it permute q and k


def permute(weights: Any, heads: int) -> Any:
    """The converter's reordering of q and k rows, from half-split to adjacent-pair rotation."""
    return (
        weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def llama3_factors(scaling: dict[str, Any], theta: float, head_dim: int) -> Any:
    """`rope_freqs.weight` as the converter computes it, one frequency after another."""
    low = scaling["original_max_position_embeddings"] / scaling["low_freq_factor"]
    high = scaling["original_max_position_embeddings"] / scaling["high_freq_factor"]
    factors = []
    for index in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (index / head_dim)
        if wavelength < high:
            factors.append(1.0)
        elif wavelength > low:
            factors.append(scaling["factor"])
        else:
            smooth = (scaling["original_max_position_embeddings"] / wavelength - scaling["low_freq_factor"]) / (
                scaling["high_freq_factor"] - scaling["low_freq_factor"]
            )
            factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(factors, np.float32)


def write_tiny_gguf(
    model: Any,
    path: Path,
    *,
    kind: Any = Kind.F32,
    metadata: dict[str, Any] | None = None,
    extra_tensors: dict[str, Any] | None = None,
    raw: dict[str, tuple[Any, Any]] | None = None,
    skip_tensors: tuple[str, ...] = (),
    theta: float = 10000.0,
) -> Path:
    """Matrices as `kind`, vectors as float32. `metadata` adds or replaces keys ("llama.x": 3); None removes one.

    `raw` holds tensors as blocks, name -> (uint8 rows, kind).
    """
    config = model.config
    family = config.model_type
    arch = "llama" if family == "mistral" else family
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    keys: dict[str, Any] = {
        f"{arch}.block_count": config.num_hidden_layers,
        f"{arch}.context_length": config.max_position_embeddings,
        f"{arch}.embedding_length": config.hidden_size,
        f"{arch}.feed_forward_length": config.intermediate_size,
        f"{arch}.attention.head_count": heads,
        f"{arch}.attention.head_count_kv": kv_heads,
        f"{arch}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{arch}.rope.freq_base": theta,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [f"t{i}" for i in range(config.vocab_size)],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
    if head_dim := getattr(config, "head_dim", None):
        keys[f"{arch}.attention.key_length"] = keys[f"{arch}.attention.value_length"] = head_dim
    keys.update(metadata or {})
    writer = gguf.GGUFWriter(path, keys.pop("general.architecture", arch))
    for key, value in keys.items():
        _add(writer, key, value)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        array = parameter.detach().numpy()
        if arch in INTERLEAVED and ".q_proj." in name:
            array = permute(array, heads)
        if arch in INTERLEAVED and ".k_proj." in name:
            array = permute(array, kv_heads)
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if stored not in skip_tensors and stored not in (raw or {}):
            _tensor(writer, stored, np.ascontiguousarray(array), kind if array.ndim > 1 else Kind.F32)
    for name, array in (extra_tensors or {}).items():
        _tensor(writer, name, array, Kind.F32)
    for name, (blocks, blocks_kind) in (raw or {}).items():
        writer.add_tensor(name, blocks, raw_dtype=blocks_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)


def _tensor(writer: Any, name: str, array: Any, kind: Any) -> None:
    if kind == Kind.F32:
        writer.add_tensor(name, array)
    elif kind == Kind.F16:
        writer.add_tensor(name, array.astype(np.float16))
    else:
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
