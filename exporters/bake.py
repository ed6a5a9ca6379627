"""Bakes a plan into a decoder: skipped sublayers are gone and their compensation is folded into what remains.

Every sublayer and the head reads the residual stream x through an RMSNorm, and RMSNorm(c·x) = RMSNorm(x) for c > 0.
So the baked decoder carries y = x/S, S the product of the skipped scales so far: later output projections are divided
by S, norms take eps/S², and a bias b joins the output bias of the sublayer before it as b/S. The result is exact and
costs nothing at run time (design §4).
"""

from __future__ import annotations

from dataclasses import replace

from edgeskip.errors import EdgeSkipError
from edgeskip.exporters.decoder import Attention, Decoder, FeedForward, Linear, Norm, Tensor, constant
from edgeskip.plan import Plan


def bake(decoder: Decoder, plan: Plan) -> Decoder:
    """The decoder with `plan` applied; weights stay lazy. EdgeSkipError where the plan is for another shape."""
    if plan.num_blocks != decoder.config.num_blocks:
        raise EdgeSkipError(
            f"the plan is for {plan.num_blocks} blocks, the model has {decoder.config.num_blocks}: use its own profile"
        )
    stream_scale = 1.0
    kept: list[Attention | FeedForward] = []
    embedding_bias: Tensor | None = decoder.embedding_bias
    for sublayer in decoder.sublayers:
        skip = plan.skip_for(sublayer.sublayer)
        if skip is None:
            kept.append(on_scaled_stream(sublayer, stream_scale))
            continue
        stream_scale *= skip.scale
        if skip.bias is None:
            continue
        bias = constant(f"{skip.sublayer}.bias", skip.bias).times(1 / stream_scale)
        if kept:
            kept[-1] = _with_output_bias(kept[-1], bias)
        else:
            embedding_bias = bias.plus(embedding_bias)
    return replace(
        decoder,
        sublayers=tuple(kept),
        norm=_norm_of_scaled(decoder.norm, stream_scale),
        embedding_bias=embedding_bias,
    )


def _norm_of_scaled(norm: Norm, scale: float) -> Norm:
    """RMSNorm(S·y; eps) = RMSNorm(y; eps/S²)."""
    return replace(norm, eps=norm.eps / scale**2)


def _divided(linear: Linear, scale: float) -> Linear:
    return Linear(linear.weight.times(1 / scale), linear.bias.times(1 / scale) if linear.bias else None)


def on_scaled_stream(sublayer: Attention | FeedForward, scale: float) -> Attention | FeedForward:
    """The same sublayer reading and writing y = x/scale instead of x."""
    norm = _norm_of_scaled(sublayer.norm, scale)
    if isinstance(sublayer, Attention):
        return replace(sublayer, norm=norm, o=_divided(sublayer.o, scale))
    return replace(sublayer, norm=norm, down=_divided(sublayer.down, scale))


def _with_output_bias(sublayer: Attention | FeedForward, bias: Tensor) -> Attention | FeedForward:
    """The same sublayer adding `bias` [d] to the stream as well."""
    if isinstance(sublayer, Attention):
        return replace(sublayer, o=Linear(sublayer.o.weight, bias.plus(sublayer.o.bias)))
    return replace(sublayer, down=Linear(sublayer.down.weight, bias.plus(sublayer.down.bias)))
