"""Exit states on their way from one graph to the next: rows that one writes and the next one reads in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeskip.runtime.engines.providers import Provider

_FIRST_ROWS = 64  # a prefill grows it


@dataclass(frozen=True)
class Rows:
    """`count` rows of a `StateBuffer`, as ONNX Runtime binds them: [1, count, width]."""

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


class StateBuffer:
    """Rows [capacity, width] in the memory where the graphs have their caches; it does not know which are in use."""

    def __init__(self, width: int, dtype: Literal["float32", "float16"], provider: Provider) -> None:
        self._width = width
        self._dtype: Literal["float32", "float16"] = dtype
        self._device = provider.device
        self._row_bytes = width * np.dtype(dtype).itemsize
        self._allocate(np.empty((_FIRST_ROWS, width), dtype))

    def reserve(self, rows: int, used: int) -> None:
        """Makes room for `rows` rows and keeps the first `used`."""
        if rows <= self._capacity:
            return
        grown = np.empty((max(rows, 2 * self._capacity), self._width), self._dtype)
        grown[:used] = self._host()[:used]
        self._allocate(grown)

    def rows(self, start: int, stop: int) -> Rows:
        """Rows start … stop−1; the same object each time, until the buffer grows."""
        rows = self._rows.get((start, stop))
        if rows is None:
            address = self._address + start * self._row_bytes
            rows = Rows(address, stop - start, self._width, self._dtype, self._device)
            self._rows[start, stop] = rows
        return rows

    def _allocate(self, host: NDArray[Any]) -> None:
        self._rows: dict[tuple[int, int], Rows] = {}
        self._capacity = len(host)
        self._memory: Any = host
        if self._device == "cpu":
            self._address = int(host.ctypes.data)
        else:
            import onnxruntime

            self._memory = onnxruntime.OrtValue.ortvalue_from_numpy(host, self._device, 0)
            self._address = int(self._memory.data_ptr())

    def _host(self) -> NDArray[Any]:
        result: NDArray[Any] = self._memory if self._device == "cpu" else self._memory.numpy()
        return result
