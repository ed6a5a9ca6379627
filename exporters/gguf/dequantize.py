"""A copy of a GGUF without quantized tensors, so that llama.cpp does not run it with 8-bit activations.

Such activations hide small mistakes in folding; the copy shows what the stored blocks themselves compute.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from edgeskip.artifacts.gguf.header import GgufTensor, read_gguf_header
from edgeskip.artifacts.gguf.seal import seal_gguf
from edgeskip.exporters.gguf.blocks import encode
from edgeskip.exporters.gguf.formats import GgufFormat
from edgeskip.exporters.gguf.metadata import Value
from edgeskip.exporters.gguf.tensors import NamedTensor
from edgeskip.exporters.gguf.write import write_gguf
from edgeskip.models.decoder import Float32, QuantizedBlocks, Tensor

ARCHITECTURE = "general.architecture"
_COPIED_AS = {"F32": "F32", "BF16": "F32"}  # everything else: F16


def write_dequantized(path: Path, target: Path) -> None:
    """Write the copy of `path` to `target`, with the same metadata.

    Blocks become F16. Floats keep their type, except BF16, which would make llama.cpp round activations to it: F32.
    """
    header = read_gguf_header(path)
    metadata = {key: Value(value, *header.types[key]) for key, value in header.metadata.items() if key != ARCHITECTURE}
    tensors = [NamedTensor(stored.name, _lazy(path, stored)) for stored in header.tensors.values()]
    as_stored = GgufFormat("dequantized", None, file_type=0)
    write_gguf(target, header.metadata[ARCHITECTURE], metadata, tensors, as_stored)
    seal_gguf(target)


def _lazy(path: Path, stored: GgufTensor) -> Tensor:
    """Return the stored tensor in the copy's type."""

    def read() -> Float32:
        from gguf.quants import dequantize

        rows = stored.shape[:-1]
        layout = (*rows, stored.num_bytes // prod(rows))
        raw = np.memmap(path, np.uint8, "c", stored.offset, layout)
        return np.ascontiguousarray(dequantize(raw, stored.type), dtype=np.float32).view(np.ndarray)

    kind = _COPIED_AS.get(stored.type.name, "F16")
    return Tensor(stored.name, stored.shape, read, QuantizedBlocks(kind, lambda: encode(read(), kind)))
