"""Rotary embedding. Oracle: the buffers that transformers' own rotary modules compute from the same config."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_models import rope_config, tiny_config

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.families.architecture_config import ArchitectureConfig
from edgeskip.models.families.rope import legacy_rope_settings, rope_of

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
SCALINGS: dict[str, dict[str, Any] | None] = {
    "default": None,
    "linear": {"rope_type": "linear", "factor": 2.5},
    "llama3": LLAMA3,
    "llama3 of Llama 3.2": {**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 8192},
    "yarn": YARN,
    "yarn, own attention factor": {**YARN, "attention_factor": 0.8},
    "yarn, mscale": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5},
    "yarn, betas": {**YARN, "beta_fast": 16.0, "beta_slow": 2.0},
    "yarn, not truncated": {**YARN, "truncate": False},
    "yarn that shrinks nothing": {**YARN, "factor": 1.0},
}


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies_equal_transformers(name: str, theta: float) -> None:
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = tiny_config("llama", head_dim=32, **rope_config(theta=theta, scaling=SCALINGS[name]))
    oracle = LlamaRotaryEmbedding(config)
    rope = rope_of(ArchitectureConfig(config.to_dict(), "config.json"), head_dim=32, max_positions=512)
    np.testing.assert_allclose(rope.inverse_frequencies, oracle.inv_freq.numpy(), rtol=2e-6)
    assert rope.attention_factor == pytest.approx(oracle.attention_scaling, rel=1e-12)
    assert rope.theta == theta
    assert rope.inverse_frequencies.dtype == np.float64


@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn"])
def test_scaling_changes_the_frequencies(kind: str) -> None:
    """Guards the comparison above: a scaling that did nothing would pass it only if transformers ignored it too."""
    plain = rope_of(ArchitectureConfig({"rope_theta": 1e4}, "c"), head_dim=32, max_positions=512)
    scaled = rope_of(
        ArchitectureConfig({"rope_theta": 1e4, "rope_scaling": SCALINGS[kind]}, "c"), head_dim=32, max_positions=512
    )
    assert not np.allclose(plain.inverse_frequencies, scaled.inverse_frequencies)


def test_both_spellings_mean_the_same() -> None:
    """transformers 4 writes rope_theta + rope_scaling (once with `type`), transformers 5 one rope_parameters."""
    spellings = [
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}},
    ]
    expected = (5e5, {"rope_type": "linear", "factor": 2.0})
    assert [legacy_rope_settings(ArchitectureConfig(values, "c"), 1e4) for values in spellings] == [expected] * 3


def test_theta_defaults_to_the_familys() -> None:
    assert legacy_rope_settings(ArchitectureConfig({"rope_parameters": {"rope_type": "default"}}, "c"), 2e6) == (
        2e6,
        None,
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic' is not supported"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "'longrope' is not supported"),
        ({"rope_scaling": {"rope_type": 7}}, "rope scaling 7 is not supported"),
        ({"rope_scaling": "linear"}, "expected an object"),
        ({"rope_scaling": {"rope_type": "linear"}}, "'factor' is missing"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, "expected a positive number"),
        ({"rope_scaling": {"rope_type": "linear", "factor": float("nan")}}, "expected a positive number"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "'low_freq_factor' is missing"),
        ({"rope_theta": -1}, "expected a positive number"),
        ({"rope_theta": 1.0}, "above 1"),
        ({"partial_rotary_factor": 0.5}, "partial rotary"),
        ({"rope_parameters": {"partial_rotary_factor": 0.25}}, "partial rotary"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "from layer to layer"),
    ],
)
def test_bad_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeSkipError, match=message):
        rope_of(ArchitectureConfig(values, "config.json"), head_dim=32, max_positions=512)
