"""Exit states on their way from one graph to the next: rows that one writes and the next one reads in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeskip.runtime.engines.onnxruntime.providers import Provider

_FIRST_ROWS = 64  # a prefill grows it


@dataclass(frozen=True)
class ExitStateRows:
    """`count` rows of a `ExitStateBuffer`, as ONNX Runtime binds them: [1, count, width]."""

    address: int
    count: int
    width: int
    dtype: Literal["float32", "float16"]
    device: str

    def bind_input(self, binding: Any, name: str) -> None:
        binding.bind_input(name, *self._where())

    def bind_output(self, binding: Any, name: str) -> None:
        binding.bind_output(name, *self._where())

    def _where(self) -> tuple[Any, ...]:
        return self.device, 0, np.dtype(self.dtype).type, (1, self.count, self.width), self.address


@dataclass(frozen=True)
class _Memory:
    """What a `ExitStateBuffer` has at one time: all of it is replaced at once, whenever Ctrl-C comes."""

    owner: Any  # NDArray [capacity, width] (host) or OrtValue (device): what keeps it alive
    address: int
    capacity: int
    rows: dict[tuple[int, int], ExitStateRows]


class ExitStateBuffer:
    """Rows [capacity, width] in the graphs' memory; the buffer does not know which rows are in use."""

    def __init__(self, width: int, dtype: Literal["float32", "float16"], provider: Provider) -> None:
        self._width = width
        self._dtype: Literal["float32", "float16"] = dtype
        self._device = provider.device
        self._row_bytes = width * np.dtype(dtype).itemsize
        self._memory = self._allocated(np.empty((_FIRST_ROWS, width), dtype))

    def reserve(self, rows: int, used: int) -> None:
        """Make room for `rows` rows and keep the first `used`."""
        memory = self._memory
        if rows <= memory.capacity:
            return
        grown = np.empty((max(rows, 2 * memory.capacity), self._width), self._dtype)
        grown[:used] = (memory.owner if self._device == "cpu" else memory.owner.numpy())[:used]
        self._memory = self._allocated(grown)

    def rows(self, start: int, stop: int) -> ExitStateRows:
        """Return the rows start … stop−1; the same object each time, until the buffer grows."""
        memory = self._memory
        rows = memory.rows.get((start, stop))
        if rows is None:
            address = memory.address + start * self._row_bytes
            rows = ExitStateRows(address, stop - start, self._width, self._dtype, self._device)
            memory.rows[start, stop] = rows
        return rows

    def _allocated(self, host: NDArray[Any]) -> _Memory:
        if self._device == "cpu":
            return _Memory(host, int(host.ctypes.data), len(host), {})
        import onnxruntime

        value = onnxruntime.OrtValue.ortvalue_from_numpy(host, self._device, 0)
        return _Memory(value, int(value.data_ptr()), len(host), {})
