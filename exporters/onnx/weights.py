"""The one external data file of an artifact's graphs, written tensor by tensor so that memory stays at one tensor."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

# ONNX Runtime maps external tensors into memory only if their offset is a multiple of the page size, and of
# 64 KiB on Windows (onnx.proto, external_data "offset").
ALIGNMENT = 65536
SMALL = 1 << 20  # smaller tensors are not worth the padding
INLINE_BYTES = 1024  # smaller ones live in the graph's own file, where ONNX Runtime can fold them


class WeightFile:
    """Appends tensors to `folder/name` and hands out the references that go into the graphs.

    Several graphs may share it: what has a name that was there before is the same tensor.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._file = (folder / name).open("wb")
        self._tensors: dict[str, ir.TensorProtocol] = {}

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()

    def once(self, name: str, make: Callable[[], NDArray[Any]]) -> ir.TensorProtocol:
        """Return the tensor of this name; `make()` is called, and its bytes written, if it is the first.

        Tiny ones are not written: each graph's own file holds them.
        """
        if name not in self._tensors:
            array = make()
            self._tensors[name] = ir.tensor(array, name=name) if array.nbytes <= INLINE_BYTES else self.add(name, array)
        return self._tensors[name]

    def add(self, name: str, array: NDArray[Any]) -> ir.ExternalTensor:
        """Write `array` (C order) and return its reference."""
        alignment = ALIGNMENT if array.nbytes >= SMALL else 64
        self._file.seek(-(-self._file.tell() // alignment) * alignment)
        offset = self._file.tell()
        self._file.write(np.ascontiguousarray(array).data)
        return self._reference(name, offset, array.nbytes, ir.DataType.from_numpy(array.dtype), array.shape)

    def alias(self, name: str, tensor: ir.TensorProtocol, shape: tuple[int, ...]) -> ir.TensorProtocol:
        """Return a second tensor of another shape over the same bytes: shared on disk and, where mapped, in memory."""
        if not isinstance(tensor, ir.ExternalTensor):
            return ir.tensor(tensor.numpy().reshape(shape), name=name)
        assert tensor.offset is not None
        assert tensor.length is not None
        return self._reference(name, tensor.offset, tensor.length, tensor.dtype, shape)

    def _reference(
        self, name: str, offset: int, length: int, dtype: ir.DataType, shape: tuple[int, ...]
    ) -> ir.ExternalTensor:
        return ir.ExternalTensor(
            self._name, offset, length, dtype, shape=ir.Shape(shape), name=name, base_dir=self._folder
        )
