"""The header of a GGUF file: metadata and where each tensor lies (ggml's docs/gguf.md), read without its data.

The gguf package's own reader makes several numpy views for every vocabulary entry, needs 2 s for 49k of them (10 s for
Llama 3's) and believes every length. This one takes 0.1 s and holds every count and length against the bytes that the
file has before anything is allocated for it. What llama.cpp's reader refuses (ggml's gguf.cpp) is refused here too:
empty and repeated keys, repeated tensors, tensors that do not follow each other without a gap.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from edgeskip.artifacts.gguf.types import TYPES_BY_NUMBER, GgmlType
from edgeskip.core.errors import EdgeSkipError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
UINT16, UINT32, STRING, ARRAY, FLOAT32 = 2, 4, 8, 9, 6  # GGUF's numbers for the types of values
_LENGTH = struct.Struct("<Q")
_ALIGNMENT = "general.alignment"


@dataclass(frozen=True)
class HeaderLimits:
    """What no model's header needs: a file may be sparse and promise any number of entries that are there, but empty.

    The largest vocabularies have 262k tokens and 515k merges and take 20 MB.
    """

    num_bytes: int = 256 << 20
    entries: int = 4 << 20  # of all arrays together
    name_bytes: int = 63  # of a tensor: GGML_MAX_NAME with its final NUL is 64
    first_read: int = 8 << 20


LIMITS = HeaderLimits()


class _MalformedError(Exception):
    """Says what is wrong with the bytes."""


class _BeyondError(Exception):
    """More of the file is needed than was read."""

    def __init__(self, end: int) -> None:
        super().__init__()
        self.end = end


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies: `shape` in numpy's order (rows first), `offset` in bytes from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    offset: int
    num_bytes: int


@dataclass(frozen=True)
class GgufHeader:
    """`metadata`: key -> Python value (str, int, float, bool or a list of one of them); `tensors` by name.

    `types`: key -> GGUF's number for the value's type and, for an array, for its elements'. `texts`: key of a string ->
    where its bytes begin and end in the file. `num_bytes`: of the header alone, without the padding before the data.
    """

    metadata: dict[str, Any]
    types: dict[str, tuple[int, int | None]]
    tensors: dict[str, GgufTensor]
    texts: dict[str, tuple[int, int]] = field(default_factory=dict)
    num_bytes: int = 0


def read_gguf_header(path: Path) -> GgufHeader:
    """Read metadata and tensor directory.

    Raises:
        EdgeSkipError: if the file is missing, not GGUF, damaged or truncated.
    """
    return read_header_bytes(path)[0]


def read_header_bytes(path: Path) -> tuple[GgufHeader, bytes]:
    """Read the header as `read_gguf_header` does, and return its bytes, `num_bytes` of them, too."""
    try:
        # A named pipe would be waited for.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise EdgeSkipError(f"{path} is not a file: check the path")
            data = file.read(LIMITS.first_read)
            while True:
                # What follows the header is not needed, so it is not read: model files have gigabytes.
                try:
                    header = _Cursor(data, about.st_size).header()
                    return header, data[: header.num_bytes]
                except _BeyondError as beyond:
                    if len(data) >= LIMITS.num_bytes:
                        raise _MalformedError(f"its header takes more than {LIMITS.num_bytes >> 20} MiB") from None
                    wanted = min(max(beyond.end, 4 * len(data)), LIMITS.num_bytes)
                    more = file.read(wanted - len(data))
                    if not more:
                        raise _MalformedError("it ends within its header") from None
                    data += more
    except _MalformedError as error:
        raise EdgeSkipError(f"{path} is not a whole GGUF file ({error}): fetch it again") from None
    except UnicodeDecodeError as error:
        raise EdgeSkipError(f"{path} is not a whole GGUF file (a text is not UTF-8: {error}): fetch it again") from None
    except OSError as error:
        raise EdgeSkipError(f"{path} cannot be read: {error.strerror}: check the path") from None


class _Cursor:
    """A position in `data`, the first bytes of a file of `size` bytes."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data = data
        self._size = size
        self._at = 0
        self._entries = 0

    def header(self) -> GgufHeader:
        if self._take(min(4, self._size)) != _MAGIC:
            raise _MalformedError("it does not start with 'GGUF'")
        version = self._number("<I")
        if version not in _VERSIONS:
            what = "big-endian" if version & 0xFFFF == 0 else f"version {version}"
            raise _MalformedError(f"{what} GGUF is not supported")
        # The least that one takes: a tensor has a name, one dimension, type and offset; a key a name, type and byte.
        num_tensors = self._count(each=8 + 4 + 8 + 4 + 8)
        num_keys = self._count(each=8 + 4 + 1)
        metadata: dict[str, Any] = {}
        types: dict[str, tuple[int, int | None]] = {}
        texts: dict[str, tuple[int, int]] = {}
        for _ in range(num_keys):
            key, kind = self._string(), int(self._number("<I"))
            if not key or key in metadata:
                raise _MalformedError(f"it has the key {_short(key)} twice" if key else "one of its keys has no name")
            types[key] = kind, self._peek_element() if kind == ARRAY else None
            metadata[key] = self._value(key, kind)
            if kind == STRING:
                texts[key] = self._at - len(metadata[key].encode()), self._at
        alignment = metadata.get(_ALIGNMENT, 32)
        if types.get(_ALIGNMENT, (UINT32, None))[0] != UINT32 or alignment <= 0 or alignment & (alignment - 1):
            raise _MalformedError(f"alignment {_short(alignment)} is not a power of two")
        entries = [self._entry() for _ in range(num_tensors)]
        end = self._at
        start = -(-end // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        expected = 0
        for name, dims, number, offset in entries:
            if name in tensors:
                raise _MalformedError(f"two tensors have one name, {name!r}")
            tensors[name] = tensor = self._locate(name, dims, number, start + offset)
            if offset != expected:
                raise _MalformedError(f"tensor {name!r} lies at byte {offset} of the data, expected {expected}")
            expected += -(-tensor.num_bytes // alignment) * alignment
        return GgufHeader(metadata, types, tensors, texts, end)

    def _take(self, length: int) -> bytes:
        at = self._at
        end = at + length
        if end > len(self._data):
            self._beyond(end)
        self._at = end
        return self._data[at:end]

    def _beyond(self, end: int) -> NoReturn:
        if end > self._size:
            raise _MalformedError(f"it promises more than its {self._size} bytes hold")
        raise _BeyondError(end)

    def _number(self, layout: str) -> Any:
        (value,) = struct.unpack(layout, self._take(struct.calcsize(layout)))
        return value

    def _peek_element(self) -> int:
        """Return the type of the elements of the array that starts here."""
        kind = int(self._number("<I"))
        self._at -= 4
        return kind

    def _count(self, each: int) -> int:
        """Return a number of entries that take at least `each` bytes."""
        value = int(self._number("<Q"))
        if value * each > self._size - self._at:
            self._beyond(self._size + 1)
        self._entries += value
        if self._entries > LIMITS.entries:
            raise _MalformedError(f"its header has more than {LIMITS.entries} entries")
        return value

    def _string(self) -> str:
        return str(self._take(self._number("<Q")), "utf-8")

    def _value(self, key: str, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            return self._array(key)
        if kind not in _SCALARS:
            raise _MalformedError(f"its key {_short(key)} has the unknown value type {kind}")
        value = self._number(_SCALARS[kind])
        # The shortest decimal of the float32: 1e-05, not 9.999999747378752e-06.
        return float(str(np.float32(value))) if kind == FLOAT32 else value

    def _array(self, key: str) -> list[Any]:
        kind = self._number("<I")
        if kind == STRING:
            return self._strings(self._count(each=8))
        if kind not in _SCALARS:
            what = "an array of arrays" if kind == ARRAY else f"an array of the unknown type {kind}"
            raise _MalformedError(f"its key {_short(key)} is {what}")
        layout = np.dtype(_SCALARS[kind])
        length = self._count(each=layout.itemsize)
        return list(np.frombuffer(self._take(length * layout.itemsize), layout).tolist())

    def _strings(self, length: int) -> list[str]:
        data, at, size = self._data, self._at, len(self._data)
        unpack = _LENGTH.unpack_from
        found: list[str] = []
        for _ in range(length):
            if at + 8 > size:
                self._beyond(at + 8)
            (count,) = unpack(data, at)
            at += 8
            end = at + count
            if end > size:
                self._beyond(end)
            found.append(data[at:end].decode())
            at = end
        self._at = at
        return found

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        length = self._number("<Q")
        if length > LIMITS.name_bytes:
            raise _MalformedError(f"the name of a tensor has {length} bytes")
        name, num_dims = str(self._take(length), "utf-8"), self._number("<I")
        if num_dims > 4:
            raise _MalformedError(f"tensor {name!r} has {num_dims} dimensions")
        dims = tuple(int(self._number("<Q")) for _ in range(num_dims))
        # One without dimensions is a scalar, as some mmproj files have them.
        return name, dims[::-1] or (1,), self._number("<I"), self._number("<Q")

    def _locate(self, name: str, shape: tuple[int, ...], number: int, offset: int) -> GgufTensor:
        kind = TYPES_BY_NUMBER.get(number)
        if kind is None:
            raise _MalformedError(f"tensor {name!r} has type {number}, unknown to this version of EdgeSkip")
        if not all(shape):
            raise _MalformedError(f"tensor {name!r} has no elements")
        if shape[-1] % kind.block:
            raise _MalformedError(f"tensor {name!r} has rows of {shape[-1]}, not a multiple of {kind.block}")
        num_bytes = prod(shape) // kind.block * kind.block_bytes
        if offset + num_bytes > self._size:
            raise _MalformedError(f"tensor {name!r} lies beyond the end: it is truncated")
        return GgufTensor(name, shape, kind, offset, num_bytes)


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "…"
