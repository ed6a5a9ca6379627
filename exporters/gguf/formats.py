"""Precisions of a GGUF by the names the ecosystem gives them, and the type each tensor gets."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.decoder import Tensor

if TYPE_CHECKING:
    from edgeskip.artifacts.gguf.header import GgufHeader
    from edgeskip.models.source import ModelSource

KEEP = "keep"
# Types in which the gguf package loses little or nothing.
_BY_GGUF = ("F32", "F16", "BF16", "Q8_0")
# Mixtures of types that llama.cpp's own quantizer chooses tensor by tensor. Unlike the gguf package it weighs an error
# by how much its input matters, which takes a third off the divergence (docs/lab-notebook.md).
_LEGACY = ("Q5_1", "Q5_0", "Q4_1", "Q4_0")
_K_QUANTS = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K")
_BY_LLAMACPP = (*_LEGACY, *_K_QUANTS, "IQ4_NL", "IQ4_XS")
_ALIASES = {"FP32": "F32", "FP16": "F16", "Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
_FALLBACK_KIND = "F16"  # rows that are not whole blocks
PRECISIONS = (KEEP, *(name.lower() for name in (*_BY_GGUF, *_BY_LLAMACPP)))


@dataclass(frozen=True)
class GgufFormat:
    """`name` as in file names (`Q4_1`); `kind` the type that the gguf package gives the matrices, None = as stored.

    `file_type` is `general.file_type`. `by_llamacpp`: the file is written as F16 and then quantized by llama.cpp.
    """

    name: str
    kind: str | None
    file_type: int
    by_llamacpp: bool = False

    def kind_of(self, tensor: Tensor) -> str:
        """Return ggml's type for a tensor; vectors are always F32."""
        if len(tensor.shape) == 1:
            return "F32"
        if self.kind is None:
            return tensor.blocks.kind if tensor.blocks else _FALLBACK_KIND
        return _FALLBACK_KIND if self.kind == "Q8_0" and tensor.shape[-1] % 32 else self.kind


def format_for(source: ModelSource, precision: str | None) -> GgufFormat:
    """Return the format called `precision` for a model; None = the one that costs it nothing or next to nothing.

    That is a GGUF's own blocks, Q8_0 if a LoRA is merged into a GGUF, F16 for other models.

    Raises:
        EdgeSkipError: As `gguf_format`, and for `keep` with a LoRA, whose merged weights have no stored blocks.
    """
    header, adapted = source.checkpoint.gguf, source.adaptation is not None
    if precision is None:
        precision = "f16" if header is None else "q8_0" if adapted else KEEP
    if adapted and precision.lower() == KEEP:
        raise EdgeSkipError(
            "--precision keep keeps a GGUF's own blocks and this model's LoRA changes its weights: choose q8_0, f16, "
            "q4_1, q4_k_m …"
        )
    return gguf_format(precision, header)


def gguf_format(precision: str, header: GgufHeader | None) -> GgufFormat:
    """Return the format called `precision`; `header` is that of the model's GGUF, None if the model is not a GGUF.

    Raises:
        EdgeSkipError: If the name is unknown, or it is `keep` and the model is not a GGUF.
    """
    from gguf import LlamaFileType

    name = _ALIASES.get(precision.upper(), precision.upper())
    if name == KEEP.upper():
        if header is None:
            raise EdgeSkipError(
                "--precision keep keeps the blocks of a GGUF, and this model is not one: choose f16, q8_0, q4_k_m …"
            )
        return _kept_format(header)
    if name not in (*_BY_GGUF, *_BY_LLAMACPP):
        raise EdgeSkipError(f"--precision {precision} is unknown for gguf: choose one of {', '.join(PRECISIONS)}")
    file_type = int(LlamaFileType.ALL_F32 if name == "F32" else LlamaFileType[f"MOSTLY_{name}"])
    if name in _BY_LLAMACPP:
        return GgufFormat(name, "F16", file_type, by_llamacpp=True)
    return GgufFormat(name, name, file_type)


def _kept_format(header: GgufHeader) -> GgufFormat:
    """Return the format that the file states; if it states none, the type of most of its matrices' weights."""
    from gguf import GGMLQuantizationType, LlamaFileType

    try:
        stated = LlamaFileType(header.metadata.get("general.file_type"))
    except ValueError:
        stated = LlamaFileType.GUESSED
    if stated != LlamaFileType.GUESSED:
        return GgufFormat(stated.name.split("_", 1)[1], None, int(stated))
    sizes: Counter[GGMLQuantizationType] = Counter()
    for tensor in header.tensors.values():
        sizes[tensor.type] += tensor.num_bytes * (len(tensor.shape) > 1)
    kind = sizes.most_common(1)[0][0].name
    # Of several K-quant mixtures, S is the one of nearly one type.
    for name in (f"MOSTLY_{kind}_S", f"MOSTLY_{kind}", f"ALL_{kind}"):
        stated = LlamaFileType.__members__.get(name, stated)
    return GgufFormat(kind, None, int(stated))
