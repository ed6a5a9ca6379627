"""Keys of published models keep the rules. Oracle: what llama.cpp's convert_hf_to_gguf.py writes for them, by hand; of
the vocabulary four tokens."""

from __future__ import annotations

from typing import Any

import pytest

from edgeskip.artifacts.gguf.header import GgufHeader, GgufTensor
from edgeskip.artifacts.gguf.rules import check_gguf
from edgeskip.artifacts.gguf.types import GgmlType

_RMS, _KV = "attention.layer_norm_rms_epsilon", "attention.head_count_kv"
_EXPERTS, _USED = "expert_count", "expert_used_count"
_GROUPS, _GROUPS_USED = "expert_group_count", "expert_group_used_count"
_YARN = {"rope.scaling.type": "yarn", "rope.scaling.original_context_length": 4096}

# Model → architecture, blocks, width, feed-forward width, heads, and the other keys.
PUBLISHED: dict[str, tuple[str, int, int, int | list[int], int | list[int], dict[str, Any]]] = {
    "Llama 2 7B": ("llama", 32, 4096, 11008, 32, {_KV: 32, _RMS: 1e-5, "rope.dimension_count": 128}),
    "Mixtral 8x7B": ("llama", 32, 4096, 14336, 32, {_KV: 8, _EXPERTS: 8, _USED: 2, "rope.freq_base": 1e6}),
    "Mistral Nemo": (
        *("llama", 40, 5120, 14336, 32),
        {_KV: 8, "attention.key_length": 128, "attention.value_length": 128, "rope.dimension_count": 128},
    ),
    "Qwen 3 0.6B": (
        *("qwen3", 28, 1024, 3072, 16),
        {_KV: 8, "attention.key_length": 128, "attention.value_length": 128, "rope.freq_base": 1e6},
    ),
    "Qwen 3 Embedding": ("qwen3", 28, 1024, 3072, 16, {"attention.key_length": 64, "pooling_type": 3}),
    "Nemotron Super 49B": ("deci", 4, 8192, [28672, 0, 5632, 28672], [64, 0, 64, 64], {_KV: [8, 0, 0, 8]}),
    "Qwen 3 30B A3B": ("qwen3moe", 48, 2048, 6144, 32, {_KV: 4, _EXPERTS: 128, _USED: 8}),
    "Qwen 3 Next": ("qwen3next", 48, 2048, 5120, 16, {_KV: 2, _EXPERTS: 512, _USED: 10}),
    "DeepSeek V2 Lite": (
        *("deepseek2", 27, 2048, 10944, 16),
        {_EXPERTS: 64, _USED: 6, _GROUPS: 1, _GROUPS_USED: 1, "attention.key_length": 576, **_YARN},
    ),
    "DeepSeek V3": (
        *("deepseek2", 61, 7168, 18432, 128),
        {_KV: 1, _EXPERTS: 256, _USED: 8, _GROUPS: 8, _GROUPS_USED: 4, "attention.value_length": 512, **_YARN},
    ),
    "GLM 4.5 Air": (
        *("glm4moe", 47, 4096, 10944, 96),
        {_KV: 8, _EXPERTS: 128, _USED: 8, _GROUPS: 1, _GROUPS_USED: 1, "nextn_predict_layers": 1},
    ),
    "gpt-oss 20B": (
        *("gpt-oss", 24, 2880, 2880, 64),
        {_KV: 8, _EXPERTS: 32, _USED: 4, "attention.sliding_window": 128, "rope.scaling.factor": 32.0, **_YARN},
    ),
    "Llama 4 Scout": ("llama4", 48, 5120, 16384, 40, {_KV: 8, _EXPERTS: 16, _USED: 1}),
    "Gemma 3n": (
        *("gemma3n", 4, 2048, [8192, 8192, 16384, 16384], 8),
        {_KV: 2, "attention.sliding_window": 512, "attention.sliding_window_pattern": [True, True, True, False]},
    ),
    "Phi 3.5": ("phi3", 32, 3072, 8192, 32, {"attention.sliding_window": 262144, "rope.scaling.attn_factor": 1.19}),
    "LFM 2": ("lfm2", 4, 1024, 4608, 16, {_KV: [0, 0, 8, 0], "shortconv.l_cache": 3}),
    "Granite 4 hybrid": ("granitehybrid", 4, 1536, 4096, 12, {_KV: [0, 0, 0, 4], _EXPERTS: 0, _USED: 0}),
    "Jamba": ("jamba", 4, 4096, 14336, 32, {_KV: [0, 0, 0, 8], _EXPERTS: 16, _USED: 2}),
    "Mamba": ("mamba", 48, 2048, 0, 0, {"ssm.conv_kernel": 4, _RMS: 1e-5}),
    "Falcon 7B": ("falcon", 32, 4544, 18176, 71, {_KV: 1, "attention.layer_norm_epsilon": 1e-5}),
}


def header(model: str) -> GgufHeader:
    architecture, blocks, width, feed_forward, heads, others = PUBLISHED[model]
    own = {
        "block_count": blocks,
        "context_length": 1 << 20,
        "embedding_length": width,
        "feed_forward_length": feed_forward,
        "attention.head_count": heads,
        **others,
    }
    metadata: dict[str, Any] = {
        "general.architecture": architecture,
        **{f"{architecture}.{name}": value for name, value in own.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": ["a", "b", "<s>", "</s>"],
        "tokenizer.ggml.token_type": [1, 1, 3, 3],
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.add_bos_token": True,
    }
    names = {"token_embd.weight": (4, width), **{f"blk.{n}.ffn_gate_inp.weight": (8, width) for n in range(blocks)}}
    tensors = {name: GgufTensor(name, shape, GgmlType.F16, 0, 0) for name, shape in names.items()}
    return GgufHeader(metadata, {}, tensors)


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("model", PUBLISHED)
def test_a_published_models_keys(model: str, complete: bool) -> None:
    check_gguf(header(model), model, complete=complete)


@pytest.mark.parametrize(
    "metadata",
    [
        {"general.architecture": "clip", "general.type": "mmproj", "clip.vision.block_count": 27},
        {
            "general.architecture": "llama",
            "general.type": "adapter",
            "adapter.type": "lora",
            "adapter.lora.alpha": 16.0,
        },
        {"general.type": "imatrix", "imatrix.chunk_count": 100},
    ],
    ids=["mmproj", "LoRA", "importance matrix"],
)
def test_files_beside_a_model_can_be_inspected(metadata: dict[str, Any]) -> None:
    check_gguf(GgufHeader(metadata, {}, {}), "x", complete=False)
