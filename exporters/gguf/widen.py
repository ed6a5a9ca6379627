"""A copy of a GGUF with every quantised tensor widened to F16, so that llama.cpp rounds no activation in running it.

Quantised weights make llama.cpp round activations to 8 bits, which hides small mistakes in folding; the copy shows
what the stored blocks themselves say.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeskip.exporters.decoder import Tensor
from edgeskip.exporters.families.gguf_header import GgufTensor, read_gguf_header
from edgeskip.exporters.gguf.formats import GgufFormat
from edgeskip.exporters.gguf.metadata import Value
from edgeskip.exporters.gguf.tensors import NamedTensor
from edgeskip.exporters.gguf.write import write_gguf

ARCHITECTURE = "general.architecture"


def widen(path: Path, target: Path) -> None:
    """Writes the copy of `path` at `target`, with the same metadata; F32 tensors stay F32."""
    header = read_gguf_header(path)
    metadata = {key: Value(value, *header.types[key]) for key, value in header.metadata.items() if key != ARCHITECTURE}
    tensors = [NamedTensor(stored.name, _lazy(path, stored)) for stored in header.tensors.values()]
    write_gguf(target, header.metadata[ARCHITECTURE], metadata, tensors, GgufFormat("F16", "F16", file_type=1))


def _lazy(path: Path, stored: GgufTensor) -> Tensor:
    def read() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        from gguf.quants import dequantize

        rows = stored.shape[:-1]
        layout = (*rows, stored.num_bytes // int(np.prod(rows, dtype=np.int64)))
        raw = np.memmap(path, np.uint8, "c", stored.offset, layout)
        return np.ascontiguousarray(dequantize(raw, stored.type), dtype=np.float32).view(np.ndarray)

    return Tensor(stored.name, stored.shape, read)
