"""Which head sizes ONNX Runtime's attention takes, asked before anything is written.

onnxruntime/contrib_ops/cpu/bert/group_query_attention_helper.h (and rotary_embedding_helper.h): GroupQueryAttention
wants a head size that is a multiple of 8, and of 16 if it rotates queries and keys. The model may load; it is the
first run that fails. `tests/runtime/engines/test_attention_limits.py` asks the installed ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.decoder import Attention

if TYPE_CHECKING:
    from edgeskip.core.sublayers import Sublayer
    from edgeskip.models.decoder import Decoder

PLAIN_MULTIPLE, ROTARY_MULTIPLE = 8, 16


def head_size_problem(decoder: Decoder, skipped: Collection[Sublayer] = ()) -> str | None:
    """Return why ONNX Runtime cannot run the attentions of `decoder` besides those `skipped`; None if it can."""
    kept = [s for s in decoder.sublayers if isinstance(s, Attention) and s.sublayer not in skipped]
    if not kept:
        return None
    rotary = any(attention.rotary for attention in kept)
    multiple = ROTARY_MULTIPLE if rotary else PLAIN_MULTIPLE
    if decoder.config.head_dim % multiple == 0:
        return None
    return (
        f"the model's head size is {decoder.config.head_dim}, and ONNX Runtime's attention takes only "
        f"multiples of {multiple}{' (with rotary positions)' if rotary else ''}"
    )


def refuse_head_size(decoder: Decoder, skipped: Collection[Sublayer] = ()) -> None:
    """Raise EdgeSkipError if ONNX Runtime cannot run the attentions of `decoder` besides those `skipped`."""
    if (problem := head_size_problem(decoder, skipped)) is not None:
        raise EdgeSkipError(f"{problem}: export a GGUF file instead, with  --target gguf")
