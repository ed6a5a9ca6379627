"""Weights in ggml's block types multiplied by a number through the blocks' own scales: nothing is quantized twice.

A block's weights are (sub-)scales times small integers (ggml-common.h), so multiplying its fp16 scales (and minima)
multiplies the weights; each product is rounded to fp16 once, a relative error of at most 2^-11 above fp16's smallest
normal number, 6e-5. K-quants' scales may lie below it already (Q6_K: 1.5e-5 for weights of σ 0.02, where a factor of
1/4 costs 0.5 %, of 1/13 1.5 %); the check after export sees what that does to the logits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.decoder import Float32, QuantizedBlocks

# Byte offsets of the fp16 numbers in a block that all its weights are proportional to.
_SCALES: dict[str, tuple[int, ...]] = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
    "IQ1_S": (0,),
    "IQ2_XXS": (0,),
    "IQ2_XS": (0,),
    "IQ2_S": (0,),
    "IQ3_XXS": (0,),
    "IQ3_S": (0,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
}
FLOATS = ("F32", "F16", "BF16")


def check_scalable(blocks: QuantizedBlocks, name: str) -> None:
    """Raise EdgeSkipError if `blocks` must be multiplied and its type has no scales wide enough for that."""
    if blocks.factor != 1.0 and blocks.kind not in _SCALES and blocks.kind not in FLOATS:
        raise EdgeSkipError(
            f"{name} is {blocks.kind}, whose scales cannot take a skipped sublayer's factor: "
            "choose another --precision than keep, e.g. q8_0"
        )


def kept_bytes(blocks: QuantizedBlocks, name: str) -> NDArray[np.uint8]:
    """Return the weight's bytes [rows…, bytes a row] with its factor folded in; the stored ones if the factor is 1.

    Raises:
        EdgeSkipError: If the type cannot be scaled or a scale leaves the range of fp16.
    """
    check_scalable(blocks, name)
    raw = blocks.read()
    if blocks.factor == 1.0:
        return raw
    if blocks.kind in FLOATS:
        return _scaled_floats(raw, blocks, name)
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    size = GGML_QUANT_SIZES[GGMLQuantizationType[blocks.kind]][1]
    scaled = np.array(raw, order="C", copy=True)
    flat = scaled.reshape(-1, size)
    for offset in _SCALES[blocks.kind]:
        halves = np.ascontiguousarray(flat[:, offset : offset + 2]).view("<f2")
        product = halves.astype(np.float64) * blocks.factor
        with np.errstate(over="ignore"):  # an overflow is found below
            rounded = product.astype("<f2")
        _check_finite(rounded, halves, name)
        flat[:, offset : offset + 2] = rounded.view(np.uint8).reshape(-1, 2)
    return scaled


def encode(values: Float32, kind: str) -> NDArray[np.uint8]:
    """Return float32 [rows…, n] as ggml blocks of `kind` [rows…, bytes a row], encoded by the gguf package.

    n is a multiple of the kind's block length.

    Raises:
        EdgeSkipError: If a value leaves the range of fp16.
    """
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    with np.errstate(over="ignore"):
        blocks: NDArray[np.generic] = np.ascontiguousarray(quantize(values, GGMLQuantizationType[kind]))
    if kind == "F16":
        _check_finite(blocks.view("<f2"), values, "a weight")
    return blocks.view(np.uint8)


def _scaled_floats(raw: NDArray[np.uint8], blocks: QuantizedBlocks, name: str) -> NDArray[np.uint8]:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    values = dequantize(raw, GGMLQuantizationType[blocks.kind])
    try:
        return encode((values * np.float64(blocks.factor)).astype(np.float32), blocks.kind)
    except EdgeSkipError:
        raise _overflow(name) from None


def _check_finite(rounded: NDArray[np.generic], before: NDArray[np.generic], name: str) -> None:
    if not np.all(np.isfinite(rounded) | ~np.isfinite(before).reshape(rounded.shape)):
        raise _overflow(name)


def _overflow(name: str) -> EdgeSkipError:
    return EdgeSkipError(f"{name} leaves the range of 16-bit floats: choose --precision f32 or bf16")
