"""One .safetensors file -> lazy float32 tensors that map the file only while they are read."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.json_file import parse_json
from edgeskip.models.decoder import Float32, Tensor
from edgeskip.models.readers.quantized import quantization_error, quantized_by_weights

_LFS = b"version https://git-lfs"
_STORED: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F64": np.dtype("<f8"),
}


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name; only the header is read.

    The safetensors library validates the file (header, offsets, length); raises EdgeSkipError if it objects, the file
    is a Git LFS pointer, or a weight is quantized or stored in a type that is not F32, F16, BF16 or F64.
    """
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise EdgeSkipError(f"{path} is a Git LFS pointer, not weights: run  git lfs pull  in that folder")
    try:
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = parse_json(file.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise EdgeSkipError(f"{path} is damaged or truncated ({error}): fetch the model again") from None
    stored = {name: str(entry["dtype"]) for name, entry in header.items() if name != "__metadata__"}
    if (method := quantized_by_weights(stored)) is not None:
        raise quantization_error(str(path), method)
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] in _STORED:
            shape = tuple(entry["shape"])
            read = partial(_read, path, entry["dtype"], shape, 8 + length + entry["data_offsets"][0])
            tensors[name] = Tensor(name, shape, read)
    return tensors


def _read(path: Path, stored: str, shape: tuple[int, ...], offset: int) -> Float32:
    """Return a private mapping of the file, so float32 costs no extra memory and writing to it does no harm."""
    data: Any = np.memmap(path, dtype=_STORED[stored], mode="c", offset=offset, shape=shape).view(np.ndarray)
    if stored == "BF16":  # the upper half of a float32
        wide = data.astype(np.uint32)
        wide <<= 16
        data = wide.view(np.float32)
    # Old writers did not pad the header, so the data may lie at an odd address, which torch refuses.
    array: Float32 = data.astype(np.float32, copy=not data.flags.aligned)
    return array
