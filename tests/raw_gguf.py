"""A GGUF file taken apart and put together byte by byte, nonsense included, which the gguf package does not write.

Follows the specification (ggml's docs/gguf.md): every count and length may be given other than it is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
LAYOUT = {
    **{U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"},
    **{U64: "<Q", I64: "<q", F64: "<d"},
}


@dataclass(frozen=True)
class RawArray:
    """An array value: `length` is what the file says, if it is not the number of values."""

    element: int
    values: list[Any]
    length: int | None = None


@dataclass(frozen=True)
class RawKey:
    name: bytes
    type: int
    value: Any


@dataclass(frozen=True)
class RawTensor:
    """`dims` in the file's order, the length of a row first; `offset` from the start of the data."""

    name: bytes
    dims: tuple[int, ...]
    type: int
    offset: int


@dataclass
class RawGguf:
    """`data` are the tensors' bytes; `num_keys` and `num_tensors` override what the header counts."""

    keys: list[RawKey]
    tensors: list[RawTensor]
    data: bytes
    version: int = 3
    alignment: int = 32
    num_keys: int | None = None
    num_tensors: int | None = None
    trailer: bytes = field(default=b"")

    @staticmethod
    def read(path: Path) -> RawGguf:
        """The parts of a sound file."""
        return RawGguf.parse(path.read_bytes())

    @staticmethod
    def parse(data: bytes) -> RawGguf:
        """The parts of a sound file's bytes."""
        return _Reader(data).read()

    def get(self, name: str) -> Any:
        """The value of a key; KeyError if there is none."""
        for key in self.keys:
            if key.name == name.encode():
                return key.value
        raise KeyError(name)

    def set(self, name: str, kind: int, value: Any) -> None:
        """Replace the key, or add it at the end."""
        key = RawKey(name.encode("utf-8", "surrogateescape"), kind, value)
        for index, old in enumerate(self.keys):
            if old.name == key.name:
                self.keys[index] = key
                return
        self.keys.append(key)

    def remove(self, name: str) -> None:
        self.keys = [key for key in self.keys if key.name != name.encode()]

    def change_tensor(self, tensor: str, /, **fields: Any) -> None:
        self.tensors = [replace(t, **fields) if t.name == tensor.encode() else t for t in self.tensors]

    def to_bytes(self) -> bytes:
        counts = (self.num_tensors, len(self.tensors)), (self.num_keys, len(self.keys))
        head = b"GGUF" + struct.pack("<I", self.version)
        head += b"".join(struct.pack("<Q", own if given is None else given) for given, own in counts)
        for key in self.keys:
            head += text(key.name) + struct.pack("<I", key.type) + encoded(key.type, key.value)
        for tensor in self.tensors:
            head += text(tensor.name) + struct.pack("<I", len(tensor.dims))
            head += b"".join(struct.pack("<Q", dim % 2**64) for dim in tensor.dims)
            head += struct.pack("<IQ", tensor.type % 2**32, tensor.offset % 2**64)
        return head + bytes(-len(head) % self.alignment) + self.data + self.trailer

    def write(self, path: Path) -> Path:
        path.write_bytes(self.to_bytes())
        return path


def text(value: bytes) -> bytes:
    """A string as the file stores it."""
    return struct.pack("<Q", len(value)) + value


def encoded(kind: int, value: Any) -> bytes:
    """A value's bytes; bytes are taken as they are, for whatever type is claimed."""
    if kind == ARRAY and isinstance(value, RawArray):
        length = len(value.values) if value.length is None else value.length
        body = b"".join(encoded(value.element, item) for item in value.values)
        return struct.pack("<IQ", value.element, length) + body
    if isinstance(value, str):
        return text(value.encode("utf-8", "surrogateescape"))
    if isinstance(value, bytes):
        return text(value) if kind == STRING else value
    return struct.pack(LAYOUT[kind], value)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 8

    def read(self) -> RawGguf:
        num_tensors, num_keys = self._number("<Q"), self._number("<Q")
        keys = []
        for _ in range(num_keys):
            name, kind = self._text(), self._number("<I")
            keys.append(RawKey(name, kind, self._value(kind)))
        tensors = []
        for _ in range(num_tensors):
            name = self._text()
            dims = tuple(self._number("<Q") for _ in range(self._number("<I")))
            tensors.append(RawTensor(name, dims, self._number("<I"), self._number("<Q")))
        start = self._at + -self._at % 32
        return RawGguf(keys, tensors, self._data[start:])

    def _number(self, layout: str) -> Any:
        (value,) = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return value

    def _text(self) -> bytes:
        length = self._number("<Q")
        self._at += length
        return self._data[self._at - length : self._at]

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._text()
        if kind == ARRAY:
            element, length = self._number("<I"), self._number("<Q")
            return RawArray(element, [self._value(element) for _ in range(length)])
        return self._number(LAYOUT[kind])
