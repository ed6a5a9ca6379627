"""The header of a GGUF file: metadata and where each tensor lies (ggml's docs/gguf.md), read without its data.

The gguf package's own reader makes several numpy views for every vocabulary entry and needs 2 s for 49k of them
(10 s for Llama 3's); this one takes 0.1 s and checks every length against the file, so a truncated file is found
on opening. The package still defines the block types and does the dequantising.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from edgeskip.errors import EdgeSkipError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY, _FLOAT32 = 8, 9, 6


class _MalformedError(Exception):
    """Says what is wrong with the bytes."""


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies: `shape` in numpy's order (rows first), `type` a GGMLQuantizationType, `offset` in bytes."""

    name: str
    shape: tuple[int, ...]
    type: Any
    offset: int
    num_bytes: int


@dataclass(frozen=True)
class GgufHeader:
    """`metadata`: key -> Python value (str, int, float, bool or a list of one of them); `tensors` by name.

    `types`: key -> GGUF's number for the value's type and, for an array, for its elements'.
    """

    metadata: dict[str, Any]
    types: dict[str, tuple[int, int | None]]
    tensors: dict[str, GgufTensor]


def read_gguf_header(path: Path) -> GgufHeader:
    """Reads metadata and tensor directory; EdgeSkipError where the file is not GGUF, damaged or truncated."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Cursor(data).header()
    except (_MalformedError, struct.error, UnicodeDecodeError, ValueError, OverflowError) as error:
        raise EdgeSkipError(f"{path} is not a whole GGUF file ({error}): fetch it again") from None
    except OSError as error:
        raise EdgeSkipError(f"{path} cannot be read: {error.strerror}") from None


class _Cursor:
    """A position in the mapped file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def header(self) -> GgufHeader:
        if self._data[:4] != _MAGIC:
            raise _MalformedError("it does not start with 'GGUF'")
        self._at = 4
        version = self._number("<I")
        if version not in _VERSIONS:
            kind = "big-endian" if version & 0xFFFF == 0 else f"version {version}"
            raise _MalformedError(f"{kind} GGUF is not supported")
        num_tensors, num_keys = self._count(), self._count()
        metadata: dict[str, Any] = {}
        types: dict[str, tuple[int, int | None]] = {}
        for _ in range(num_keys):
            key, kind = self._string(), self._number("<I")
            types[key] = kind, self._peek_element() if kind == _ARRAY else None
            metadata[key] = self._value(kind)
        entries = [self._entry() for _ in range(num_tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise _MalformedError(f"alignment {alignment!r} is not a power of two")
        start = -(-self._at // alignment) * alignment
        if any(offset % alignment for *_, offset in entries):
            raise _MalformedError("a tensor is not aligned")
        tensors = {name: self._locate(name, dims, kind, start + offset) for name, dims, kind, offset in entries}
        if len(tensors) != num_tensors:
            raise _MalformedError("two tensors have one name")
        return GgufHeader(metadata, types, tensors)

    def _number(self, layout: str) -> Any:
        (value,) = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return value

    def _peek_element(self) -> int:
        """The type of the elements of the array that starts here."""
        (kind,) = struct.unpack_from("<I", self._data, self._at)
        return int(kind)

    def _count(self) -> int:
        """A count of things that take at least a byte each."""
        value = int(self._number("<Q"))
        if value > len(self._data) - self._at:
            raise _MalformedError(f"it promises more than its {len(self._data)} bytes hold")
        return value

    def _string(self) -> str:
        length = self._count()
        self._at += length
        return str(self._data[self._at - length : self._at], "utf-8")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise _MalformedError(f"unknown value type {kind}")
        value = self._number(_SCALARS[kind])
        # The shortest decimal of the float32: 1e-05, not 9.999999747378752e-06.
        return float(str(np.float32(value))) if kind == _FLOAT32 else value

    def _array(self) -> list[Any]:
        kind = self._number("<I")
        length = self._count()
        if kind == _STRING:
            return [self._string() for _ in range(length)]
        if kind not in _SCALARS:
            raise _MalformedError(f"unknown array type {kind}")
        layout = np.dtype(_SCALARS[kind])
        if length * layout.itemsize > len(self._data) - self._at:
            raise _MalformedError(f"it promises more than its {len(self._data)} bytes hold")
        values = np.frombuffer(self._data[self._at : self._at + length * layout.itemsize], layout)
        self._at += length * layout.itemsize
        return list(values.tolist())

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name, num_dims = self._string(), self._number("<I")
        if not 1 <= num_dims <= 4:
            raise _MalformedError(f"tensor {name!r} has {num_dims} dimensions")
        dims = tuple(int(self._number("<Q")) for _ in range(num_dims))
        return name, dims[::-1], self._number("<I"), self._number("<Q")

    def _locate(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> GgufTensor:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            quantisation = GGMLQuantizationType(kind)
            block, size = GGML_QUANT_SIZES[quantisation]
        except (ValueError, KeyError):
            raise _MalformedError(f"tensor {name!r} has type {kind}, unknown to this gguf package") from None
        if shape[-1] % block:
            raise _MalformedError(f"tensor {name!r} has rows of {shape[-1]}, not a multiple of {block}")
        num_bytes = prod(shape) // block * size
        if offset + num_bytes > len(self._data):
            raise _MalformedError(f"tensor {name!r} lies beyond the end: it is truncated")
        return GgufTensor(name, shape, quantisation, offset, num_bytes)
