"""What the blocks left in a GGUF file predict for its time in llama.cpp: counted from the header, weights unread."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeskip.errors import EdgeSkipError
from edgeskip.exporters.families.gguf_header import read_gguf_header
from peers.work_left import Work

KV_BYTES = 2  # llama.cpp keeps keys and values in float16 unless told otherwise


def gguf_work_of(file: Path, *, prompt_tokens: int, new_tokens: int) -> Work:
    """Work of a whole decoder, by the same rules as `work_of` of an ONNX artifact.

    Decode: every matrix of a block and the head once, and the keys and values of the mean position; 2 operations
    per weight and, in attention, 2 · heads · (key length + value length) per position seen. Prefill: the same over
    the prompt's positions, causally, with the head on the last one only.
    """
    header = read_gguf_header(file)
    head = "output.weight" if "output.weight" in header.tensors else "token_embd.weight"
    if head not in header.tensors:
        raise EdgeSkipError(f"{file} has neither output.weight nor token_embd.weight: it is no whole language model")
    positions = prompt_tokens + new_tokens / 2
    decode_bytes = decode_flops = prefill_flops = 0.0
    for tensor in header.tensors.values():
        is_head = tensor.name == head
        if len(tensor.shape) < 2 or not (is_head or tensor.name.startswith("blk.")):
            continue  # norms and biases are under 1 %; of the embedding one row is read
        if len(tensor.shape) > 2:
            raise EdgeSkipError(f"{file}: {tensor.name} is a stack of experts; which of them run cannot be counted")
        flops = 2.0 * math.prod(tensor.shape)
        decode_bytes += tensor.num_bytes
        decode_flops += flops
        prefill_flops += flops * (1 if is_head else prompt_tokens)
    for heads, kv_heads, key_length, value_length in attention_of(header.metadata):
        per_pair = 2.0 * heads * (key_length + value_length)
        decode_flops += per_pair * positions
        prefill_flops += per_pair * prompt_tokens * (prompt_tokens + 1) / 2
        decode_bytes += float(KV_BYTES * kv_heads * (key_length + value_length)) * positions
    return Work(decode_bytes, decode_flops, prefill_flops)


def attention_of(metadata: Mapping[str, Any]) -> list[tuple[int, int, int, int]]:
    """Heads, key-value heads, key length and value length of each block's attention; heads 0 = block has none."""
    architecture = metadata.get("general.architecture")
    blocks = int(metadata.get(f"{architecture}.block_count", 0))

    def each(key: str, default: Any) -> list[int]:
        value = metadata.get(f"{architecture}.attention.{key}", default)
        values = value if isinstance(value, list) else [value] * blocks
        if len(values) < blocks:
            raise EdgeSkipError(f"{architecture}.attention.{key} has {len(values)} entries for {blocks} blocks")
        return values[:blocks]

    heads = each("head_count", 0)
    kv_heads = each("head_count_kv", heads)
    width = int(metadata.get(f"{architecture}.embedding_length", 0)) // max([1, *heads])
    key_lengths, value_lengths = each("key_length", width), each("value_length", width)
    return [(heads[i], kv_heads[i] if heads[i] else 0, key_lengths[i], value_lengths[i]) for i in range(blocks)]
