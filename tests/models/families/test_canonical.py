"""Every family as a canonical decoder.

Oracle: transformers' logits of the same random checkpoint. The decoder is run by a numpy interpreter of its fields,
so a wrong bias, norm, window, rotation or tying shows as different logits. Weights are compared with the state dict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_decoder import logits_of
from tiny_models import FAMILIES, rope_config, tiny_checkpoint

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.decoder import Attention, Tensor
from edgeskip.models.families.registry import FAMILIES as REGISTERED
from edgeskip.models.source import open_model

TOKENS = [(7 * i * i + 3 * i) % 300 + 2 for i in range(48)]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"{family}, tied": (family, {"tie_word_embeddings": True}) for family in FAMILIES},
    **{f"{family}, untied": (family, {"tie_word_embeddings": False}) for family in FAMILIES},
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, head size of its own": ("llama", {"head_dim": 32}),
    "llama, one head per key": ("llama", {"num_key_value_heads": 4}),
    "llama, linear": ("llama", rope_config(scaling={"rope_type": "linear", "factor": 4.0})),
    "llama, llama3": ("llama", rope_config(theta=5e5, scaling=LLAMA3)),
    "llama, yarn": ("llama", rope_config(scaling=YARN)),
    "qwen3, yarn": ("qwen3", rope_config(theta=1e6, scaling=YARN)),
    "qwen3, biases": ("qwen3", {"attention_bias": True}),
    "mistral, window": ("mistral", {"sliding_window": 8}),
    "mistral, wide heads": ("mistral", {"head_dim": 32}),
    "qwen2, window switched off": ("qwen2", {"sliding_window": 8, "use_sliding_window": False}),
    "qwen2, upper blocks": ("qwen2", {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 2}),
    "qwen3, listed blocks": (
        "qwen3",
        {
            "sliding_window": 8,
            "use_sliding_window": True,
            "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
        },
    ),
    "smollm3, listed blocks": ("smollm3", {"no_rope_layers": [0, 1, 1, 0]}),
    "smollm3, interval": ("smollm3", {"no_rope_layer_interval": 2}),
    "smollm3, window": ("smollm3", {"use_sliding_window": True, "sliding_window": 8}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(variant: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    family, overrides = VARIANTS[variant]
    tiny_checkpoint(family, tmp_path, **overrides)
    oracle = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        expected = oracle(torch.tensor([TOKENS])).logits[0].numpy()
    source = open_model(str(tmp_path))
    np.testing.assert_allclose(logits_of(source.decoder, TOKENS), expected, atol=2e-4)
    state = oracle.state_dict()
    for name, tensor in source.tensors.items():
        np.testing.assert_array_equal(tensor.read(), state[name].numpy(), err_msg=name)


def test_no_rope_list_reads_one_as_rotary(tmp_path: Path) -> None:
    """transformers documents `no_rope_layers`: 1 = the layer uses rotary positions."""
    decoder = open_model(str(tiny_checkpoint("smollm3", tmp_path, no_rope_layers=[1, 0, 1, 1]))).decoder
    assert [s.rotary for s in decoder.sublayers if isinstance(s, Attention)] == [True, False, True, True]


def test_sublayers_are_in_execution_order(tiny_llama: Path) -> None:
    decoder = open_model(str(tiny_llama)).decoder
    assert [str(s.sublayer) for s in decoder.sublayers[:4]] == ["attn.0", "ffn.0", "attn.1", "ffn.1"]
    assert len(decoder.sublayers) == 2 * decoder.config.num_blocks


def test_opening_reads_no_weights(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Laziness: building the decoder must not read a tensor; every weight is a `Tensor` over the file."""
    from edgeskip.models.readers import safetensors_file

    def forbidden(*_: object) -> None:
        raise AssertionError("read while opening")

    monkeypatch.setattr(safetensors_file, "_read", forbidden)
    decoder = open_model(str(tiny_llama)).decoder
    assert isinstance(decoder.embedding, Tensor)
    with pytest.raises(AssertionError, match="read while opening"):
        decoder.embedding.read()


def _edit(folder: Path, **changes: Any) -> str:
    import json

    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "DELETE"}))
    return str(folder)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("llama", {"model_type": "gemma2"}, r"'gemma2' is not supported; supported are llama, mistral, qwen2"),
        ("llama", {"model_type": "DELETE"}, "'unknown' is not supported"),
        ("llama", {"model_type": ["llama"]}, "expected a string"),
        ("llama", {"hidden_act": "gelu"}, "'hidden_act' is 'gelu'"),
        ("llama", {"hidden_size": "DELETE"}, "'hidden_size' is missing"),
        ("llama", {"hidden_size": "64"}, "'hidden_size' is '64', expected a whole number"),
        ("llama", {"num_hidden_layers": 0}, "a whole number from 1"),
        ("llama", {"num_hidden_layers": True}, "expected a whole number"),
        ("llama", {"num_hidden_layers": 5}, r"the weights lack 'model\.layers\.4\."),
        ("llama", {"intermediate_size": 96}, r"has shape \[128, 64\].* \[96, 64\]"),
        ("llama", {"vocab_size": 500}, "config and weights are not of one model"),
        ("llama", {"num_key_value_heads": 3}, "a divisor of num_attention_heads = 4"),
        ("llama", {"head_dim": 15}, "an even number"),
        ("llama", {"tie_word_embeddings": False}, r"lack 'lm_head\.weight'"),
        ("llama", {"tie_word_embeddings": "yes"}, "expected true or false"),
        ("llama", {"attention_bias": True}, r"lack 'model\.layers\.0\.self_attn\.q_proj\.bias'"),
        ("llama", {"rms_norm_eps": -1e-5}, "expected a positive number"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantized .gptq"),
        ("qwen2", {"model_type": "llama"}, r"proj\.bias' is a weight that this family does not use"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 4}, "'full_attention' and 'sliding_attention'"),
        ("qwen2", {"layer_types": ["full_attention"]}, "a list with 4 entries"),
        ("qwen2", {"layer_types": [["full_attention"]] * 4}, "'full_attention' and 'sliding_attention'"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 4, "sliding_window": 8}, "'use_sliding_window' is"),
        ("smollm3", {"layer_types": ["sliding_attention"] * 4, "sliding_window": None}, "'sliding_window' is missing"),
        ("llama", {"num_hidden_layers": 2**31}, r"the weights lack 'model\.layers\.2147483647\."),
        ("llama", {"num_hidden_layers": 2**40}, "a whole number from 1 to 2147483648"),
        ("llama", {"head_dim": 2**30}, "a whole number from 1 to 65536"),
        ("mistral", {"layer_types": ["full_attention"] * 4}, "no such key in a Mistral model"),
        ("smollm3", {"no_rope_layers": [1, 1]}, "a list with 4 entries"),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 2]}, "a list of 0"),
        ("llama", {"eos_token_id": "</s>"}, "'eos_token_id' is '</s>', expected a token id"),
    ],
)
def test_bad_configs_are_named(family: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    tiny_checkpoint(family, tmp_path)
    if "eos_token_id" in changes:
        (tmp_path / "generation_config.json").unlink()
    with pytest.raises(EdgeSkipError, match=message) as caught:
        open_model(_edit(tmp_path, **changes))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_silent_configs_get_the_defaults_of_transformers(tmp_path: Path) -> None:
    """Oracle: the config classes of transformers, asked for the same keys."""
    from transformers import AutoConfig

    from edgeskip.models.families.architecture_config import ArchitectureConfig
    from edgeskip.models.readers.config import complete_config

    sizes = {"vocab_size": 10, "hidden_size": 64, "intermediate_size": 8, "num_hidden_layers": 2}
    for name, family in REGISTERED.items():
        ours = complete_config(family, ArchitectureConfig({"num_attention_heads": 32, **sizes}, "config.json"))
        theirs = AutoConfig.for_model(name, num_attention_heads=32, **sizes)
        for key in ("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings"):
            assert ours[key] == getattr(theirs, key), (name, key)
        assert ours["head_dim"] == (getattr(theirs, "head_dim", None) or 2), name
        theta = getattr(theirs, "rope_theta", None) or theirs.rope_parameters["rope_theta"]
        assert ours["rope_theta"] == theta, name
