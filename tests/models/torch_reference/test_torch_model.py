"""load_torch_model. Oracle: `from_pretrained` of the same folder, whose logits must be equal to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_canonical import TOKENS, VARIANTS
from tiny_models import tiny_checkpoint

from edgeskip.models.source import open_model
from edgeskip.models.torch_reference.load import load_torch_model


def _logits(model: Any, tokens: list[int] = TOKENS) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([tokens])).logits
    return logits


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_from_pretrained(variant: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    family, overrides = VARIANTS[variant]
    tiny_checkpoint(family, tmp_path, **overrides)
    source = open_model(str(tmp_path))
    expected = _logits(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32))
    model = load_torch_model(source)
    assert torch.equal(_logits(model), expected)
    assert torch.equal(_logits(load_torch_model(source, stream=True)), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_runs_in_the_asked_type(dtype: torch.dtype, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    tiny_checkpoint("llama", tmp_path, dtype=str(dtype).removeprefix("torch."))
    model = load_torch_model(open_model(str(tmp_path)), dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert torch.equal(_logits(model), _logits(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)))


def test_is_ready_for_measuring(tiny_llama: Path) -> None:
    model = load_torch_model(open_model(str(tiny_llama)))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def test_streaming_holds_one_block_at_a_time(tiny_llama: Path) -> None:
    model = load_torch_model(open_model(str(tiny_llama)), stream=True)
    blocks = model.model.layers
    filled: list[list[int]] = []

    def note(*_: object) -> None:
        filled.append([i for i, block in enumerate(blocks) if not any(p.is_meta for p in block.parameters())])

    for block in blocks:
        block.mlp.register_forward_hook(note)
    _logits(model)
    assert filled == [[0], [1], [2], [3]]
    assert all(parameter.is_meta for parameter in blocks.parameters())


def test_streaming_empties_a_block_that_fails(tiny_llama: Path) -> None:
    model = load_torch_model(open_model(str(tiny_llama)), stream=True)

    def fail(*_: object) -> None:
        raise RuntimeError("stop here")

    model.model.layers[1].mlp.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="stop here"):
        _logits(model)
    assert all(parameter.is_meta for parameter in model.model.layers.parameters())


@pytest.mark.parametrize("stream", [False, True])
def test_generates_like_from_pretrained(stream: bool, tiny_llama: Path) -> None:
    """Greedy generation with a cache, and the end-of-text ids of generation_config.json."""
    from transformers import AutoModelForCausalLM

    prompt = torch.tensor([TOKENS[:5]])
    settings = {"max_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones_like(prompt)}
    model = load_torch_model(open_model(str(tiny_llama)), stream=stream)
    expected = AutoModelForCausalLM.from_pretrained(tiny_llama).generate(prompt, **settings)
    assert torch.equal(model.generate(prompt, **settings), expected)
    assert model.generation_config.eos_token_id == 1


def test_writing_to_the_model_leaves_the_file_alone(tmp_path: Path) -> None:
    """float32 weights are mapped from the file: private pages, so an in-place change must not reach the disk."""
    source = open_model(str(tiny_checkpoint("llama", tmp_path)))
    before = source.fingerprint
    load_torch_model(source).model.norm.weight.zero_()
    assert open_model(str(tmp_path)).fingerprint == before
    assert source.tensors["model.norm.weight"].read().any()
