"""Tiny random checkpoints of every supported family, made by transformers itself, for all tests that need a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
VOCAB_SIZE = 320
BOS, END = "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TEXT = (
    "The quick brown fox jumps over the lazy dog. A model reads tokens and writes tokens; the stream between its "
    "sublayers changes little. Skip what it does not need, measure what that costs, and say so."
)


def rope_config(*, theta: float = 10000.0, scaling: dict[str, Any] | None = None) -> dict[str, Any]:
    """Config arguments of a rotary embedding in the spelling of the transformers at hand."""
    import transformers

    if int(transformers.__version__.split(".")[0]) < 5:
        return {"rope_theta": theta, "rope_scaling": scaling}
    return {"rope_parameters": {"rope_theta": theta, **(scaling or {"rope_type": "default"})}}


def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer of 300-odd tokens: any text encodes and decodes without loss."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(BOS, special=True), AddedToken(END, special=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT] * 4, trainer)
    return tokenizer


def write_tiny_tokenizer(folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json (with the chat template) and special_tokens_map.json."""
    tokenizer = tiny_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": BOS, "eos_token": END, "pad_token": END}
    config = {
        **names,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": 512,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(names), encoding="utf-8")


def tiny_config(family: str, **overrides: Any) -> Any:
    """A transformers config: 4 blocks, hidden 64, 4 heads, 2 key/value heads, head size 16, 512 positions."""
    from transformers import AutoConfig

    settings: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        "tie_word_embeddings": family != "mistral",
        **rope_config(),
    }
    if family in ("mistral", "qwen3"):
        settings["head_dim"] = 16
    if family == "mistral":
        settings["sliding_window"] = None
    return AutoConfig.for_model(family, **{**settings, **overrides})


def tiny_model(family: str, *, seed: int = 0, **config_overrides: Any) -> Any:
    """A random float32 model in eval mode whose weights are large enough that every part of it matters.

    transformers' own initialisation (σ = 0.02, biases 0, norms 1) would hide a lost bias, a swapped norm or a
    skipped sublayer; here every one of them moves the logits.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = tiny_config(family, **config_overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
            elif name.endswith(".bias"):
                torch.nn.init.normal_(parameter, std=0.2)
            elif "embed_tokens" in name or "lm_head" in name:
                torch.nn.init.normal_(parameter, std=0.3)
            else:
                torch.nn.init.normal_(parameter, std=1.2 / parameter.shape[-1] ** 0.5)
    return model.eval().requires_grad_(False)


def tiny_checkpoint(
    family: str,
    folder: Path,
    *,
    seed: int = 0,
    dtype: str = "float32",
    max_shard_size: str = "5GB",
    **config_overrides: Any,
) -> Path:
    """Saves a random Hugging Face folder (safetensors, config, tokenizer with chat template) and returns it.

    `dtype` is the stored type (`float32`, `float16`, `bfloat16`); a small `max_shard_size` ("50KB") makes shards.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_model(family, seed=seed, **config_overrides).to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    write_tiny_tokenizer(folder)
    return folder
