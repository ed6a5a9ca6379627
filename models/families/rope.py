"""Rotary embedding: inverse frequencies and attention factor from a config, in float64.

The formulas are those of transformers' `modeling_rope_utils` (its documentation defines the parameters), which
cites RoPE (arXiv:2104.09864), position interpolation (2306.15595), YaRN (2309.00071) and Llama 3.1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.decoder import Rope
from edgeskip.models.families.architecture_config import ArchitectureConfig

SUPPORTED = ("default", "linear", "llama3", "yarn")
Float64 = NDArray[np.float64]


def legacy_rope_settings(settings: ArchitectureConfig, default_theta: float) -> tuple[float, dict[str, Any] | None]:
    """Return (`rope_theta`, `rope_scaling` or None) as transformers 4.57 names them, from either spelling.

    transformers 5 writes one `rope_parameters` object that holds theta too and still reads the older pair,
    so the older pair is what every tool understands.
    """
    table = {**settings.table("rope_parameters"), **settings.table("rope_scaling")}
    if any(isinstance(value, dict) for value in table.values()):
        raise EdgeSkipError(f"{settings.file}: rotary settings that differ from layer to layer are not supported")
    theta = ArchitectureConfig(
        {"rope_theta": table.pop("rope_theta", None) or settings.values.get("rope_theta")}, settings.file
    )
    kind = table.pop("rope_type", None) or table.get("type") or "default"
    table.pop("type", None)
    if kind not in SUPPORTED:
        raise EdgeSkipError(
            f"{settings.file}: rope scaling {kind!r} is not supported; supported are {', '.join(SUPPORTED)}"
        )
    for values in (table, settings.values):
        if values.get("partial_rotary_factor") not in (None, 1, 1.0):
            raise EdgeSkipError(f"{settings.file}: a partial rotary embedding (partial_rotary_factor) is not supported")
    table.pop("partial_rotary_factor", None)
    scaling = None if kind == "default" else {"rope_type": kind, **table}
    value = theta.number("rope_theta", default_theta)
    if value <= 1:
        raise theta.wrong("rope_theta", "a number above 1")
    return value, scaling


def rope_of(settings: ArchitectureConfig, *, head_dim: int, max_positions: int) -> Rope:
    """Return the rotary embedding of a completed config; `head_dim` in elements, `max_positions` in tokens."""
    theta, scaling = legacy_rope_settings(settings, 10_000.0)
    plain = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if scaling is None:
        return Rope(theta, plain)
    table = ArchitectureConfig(scaling, f"{settings.file}: rope_scaling")
    if scaling["rope_type"] == "linear":
        return Rope(theta, plain / table.number("factor"), scaling=scaling)
    if scaling["rope_type"] == "llama3":
        frequencies = llama3_frequencies(
            plain,
            factor=table.number("factor"),
            low=table.number("low_freq_factor"),
            high=table.number("high_freq_factor"),
            original=table.number("original_max_position_embeddings", max_positions),
        )
        return Rope(theta, frequencies, scaling=scaling)
    frequencies, attention_factor = _yarn(table, plain, theta, head_dim, max_positions)
    return Rope(theta, frequencies, attention_factor, scaling)


def llama3_frequencies(plain: Float64, *, factor: float, low: float, high: float, original: float) -> Float64:
    """Return Llama 3.1's frequencies: long wavelengths divided by `factor`, short ones kept, linear in between."""
    turns = original * plain / (2 * math.pi)  # rotations over the original context
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0) if high > low else (turns >= low).astype(np.float64)
    return plain * ((1 - blend) / factor + blend)


def _yarn(
    table: ArchitectureConfig, plain: Float64, theta: float, head_dim: int, max_positions: int
) -> tuple[Float64, float]:
    """Return YaRN's frequencies and the factor on cos and sin."""
    original = table.number("original_max_position_embeddings", max_positions)
    factor = table.number("factor", max_positions / original)

    def temperature(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if table.has("attention_factor"):
        attention_factor = table.number("attention_factor")
    elif table.values.get("mscale") and table.values.get("mscale_all_dim"):
        attention_factor = temperature(table.number("mscale")) / temperature(table.number("mscale_all_dim"))
    else:
        attention_factor = temperature(1.0)

    def dimension(rotations: float) -> float:
        return head_dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = dimension(table.number("beta_fast", 32) if table.values.get("beta_fast") else 32)
    high = dimension(table.number("beta_slow", 1) if table.values.get("beta_slow") else 1)
    if table.flag("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(head_dim // 2) - low) / (high - low), 0.0, 1.0)
    return plain / factor * ramp + plain * (1 - ramp), attention_factor
