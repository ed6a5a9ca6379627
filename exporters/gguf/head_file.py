"""Writes the side file with an early exit's trimmed head: llama.cpp's models have one head, over all tokens."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.draft import DraftHead
from edgeskip.runtime.engines.llamacpp.trimmed_head import EPS


def write_head_file(path: Path, head: DraftHead) -> str:
    """Write `head` float16 [V', d], the norm's weight in it, `tokens` int32 [V'] and eps; returns the file's sha256.

    Raises:
        EdgeSkipError: If a weight leaves the range of float16.
    """
    from safetensors.numpy import save

    assert head.head is not None
    assert head.tokens is not None
    weight = head.head.weight.read() * head.norm.weight.read()
    with np.errstate(over="ignore"):  # found below
        rounded = weight.astype(np.float16)
    if not np.isfinite(rounded).all():
        raise EdgeSkipError("the draft head leaves the range of 16-bit floats: leave --draft-vocab out")
    data = save({"head": rounded, "tokens": head.tokens.astype(np.int32)}, metadata={EPS: repr(head.norm.eps)})
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()
