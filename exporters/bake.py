"""Bakes a plan into a decoder: skipped sublayers are gone and their compensation is folded into what remains.

Every sublayer and the head reads the residual stream x through an RMSNorm, and RMSNorm(c·x) = RMSNorm(x) for c > 0.
So the baked decoder carries y = x/S, S the product of the skipped scales so far: later output projections are divided
by S, norms take eps/S², and a bias b joins the output bias of the sublayer before it as b/S. A map T of that sublayer's
update u = W·h joins its output projection, W/S₀ + T·W/S. The result is exact and costs nothing at run time.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Plan
from edgeskip.core.sublayers import Sublayer
from edgeskip.models.decoder import Attention, Decoder, FeedForward, Float32, Linear, Norm, Tensor, constant


def bake(decoder: Decoder, plan: Plan, *, shifts_apart: Collection[Sublayer] = ()) -> Decoder:
    """Return the decoder with `plan` applied; weights stay lazy.

    `shifts_apart`: what these FFNs would absorb stays beside them, as `shift`, for a graph that may leave them out.

    Raises:
        EdgeSkipError: If the plan is for another shape.
    """
    if plan.num_blocks != decoder.config.num_blocks:
        raise EdgeSkipError(
            f"the plan is for {plan.num_blocks} blocks, the model has {decoder.config.num_blocks}: use its own profile"
        )
    stream_scale = 1.0
    by_name = {sublayer.sublayer: sublayer for sublayer in decoder.sublayers}
    kept: list[Attention | FeedForward] = []
    embedding_bias: Tensor | None = decoder.embedding_bias
    for sublayer in decoder.sublayers:
        skip = plan.skip_for(sublayer.sublayer)
        if skip is None:
            kept.append(on_scaled_stream(sublayer, stream_scale))
            continue
        stream_scale *= skip.scale
        source = skip.source
        if skip.map is not None and source is not None and source not in plan.skipped:
            # `u` is the original sublayer's, whatever skips before this one have made of what it writes.
            kept[-1] = _with_map(kept[-1], by_name[source], skip.map / stream_scale)
        if skip.bias is None:
            continue
        bias = constant(f"{skip.sublayer}.bias", skip.bias).times(1 / stream_scale)
        if kept:
            kept[-1] = _with_output_bias(kept[-1], bias, apart=kept[-1].sublayer in shifts_apart)
        else:
            embedding_bias = bias.plus(embedding_bias)
    return replace(
        decoder,
        sublayers=tuple(kept),
        norm=_norm_of_scaled(decoder.norm, stream_scale),
        embedding_bias=embedding_bias,
    )


def _norm_of_scaled(norm: Norm, scale: float) -> Norm:
    """Return the norm of y for one of S·y: RMSNorm(S·y; eps) = RMSNorm(y; eps/S²)."""
    return replace(norm, eps=norm.eps / scale**2)


def _divided(linear: Linear, scale: float) -> Linear:
    return Linear(linear.weight.times(1 / scale), linear.bias.times(1 / scale) if linear.bias else None)


def on_scaled_stream(sublayer: Attention | FeedForward, scale: float) -> Attention | FeedForward:
    """Return the same sublayer reading and writing y = x/scale instead of x."""
    norm = _norm_of_scaled(sublayer.norm, scale)
    if isinstance(sublayer, Attention):
        return replace(sublayer, norm=norm, o=_divided(sublayer.o, scale))
    return replace(sublayer, norm=norm, down=_divided(sublayer.down, scale))


def _with_map(
    kept: Attention | FeedForward, original: Attention | FeedForward | None, matrix: Float32
) -> Attention | FeedForward:
    """Return `kept` adding matrix·u to the stream as well, u what the same sublayer before baking, `original`, adds."""
    if isinstance(kept, Attention) and isinstance(original, Attention):
        return replace(kept, o=_added(kept.o, _mapped(original.o, matrix)))
    assert isinstance(kept, FeedForward), "a map reads the last kept sublayer"
    assert isinstance(original, FeedForward)
    return replace(kept, down=_added(kept.down, _mapped(original.down, matrix)))


def _mapped(linear: Linear, matrix: Float32) -> Linear:
    """Return matrix·(weight·h + bias) as one projection."""

    def product(tensor: Tensor) -> Tensor:
        wide = matrix.astype(np.float64)
        return Tensor(tensor.name, tensor.shape, lambda: (wide @ tensor.read()).astype(np.float32))

    return Linear(product(linear.weight), product(linear.bias) if linear.bias else None)


def _added(one: Linear, other: Linear) -> Linear:
    bias = other.bias.plus(one.bias) if other.bias else one.bias
    return Linear(one.weight.plus(other.weight), bias)


def _with_output_bias(sublayer: Attention | FeedForward, bias: Tensor, *, apart: bool) -> Attention | FeedForward:
    """Return the same sublayer adding `bias` [d] to the stream as well."""
    if isinstance(sublayer, Attention):
        return replace(sublayer, o=Linear(sublayer.o.weight, bias.plus(sublayer.o.bias)))
    if apart:
        return replace(sublayer, shift=bias.plus(sublayer.shift))
    return replace(sublayer, down=Linear(sublayer.down.weight, bias.plus(sublayer.down.bias)))
