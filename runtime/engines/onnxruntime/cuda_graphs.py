"""Decode steps that a provider records once and replays: CUDA graphs, one for each number of tokens a step appends.

A recorded step repeats the same kernels on the same addresses, so everything that differs from step to step lies in
buffers on the device: the tokens, and an attention mask as long as the cache, of which ones count (as onnxruntime-genai
does it, its pull request 271). GroupQueryAttention takes the length from the mask's sum. Logits are of the last
position; whatever else is wanted runs as it comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.runtime.engines.onnxruntime.providers import Provider
from edgeskip.runtime.engines.onnxruntime.session import GraphShape

MOST_TOKENS = 8  # of a step; each width is recorded once and holds its own memory
_NEVER = "-1"  # ONNX Runtime's id for a run that is neither recorded nor replayed


@dataclass(frozen=True)
class _Width:
    """What steps of one width run with."""

    binding: Any
    tokens: Any  # OrtValue int64 [1, n]
    options: Any


class CudaGraphSteps:
    """Over one session and its cache; the caller counts what is in the cache."""

    def __init__(self, session: Any, shape: GraphShape, provider: Provider) -> None:
        self._session, self._shape, self._device = session, shape, provider.device
        self.uncaptured = _run_options(_NEVER)
        """Options of every other run of the session."""
        self._widths: dict[int, _Width] = {}
        self._graphs = 0  # recorded so far: an id is never used again
        self._cache: Mapping[str, Any] = {}
        self._logits = self._on_device(np.zeros((1, 1, shape.columns), shape.logits_dtype))
        self._host_mask: NDArray[np.int64] = np.zeros((1, 0), np.int64)
        self._mask: Any = None

    def takes(self, tokens: int, kept: int) -> bool:
        """Return whether a step that appends `tokens` and wants `kept` rows of logits is one of these."""
        return tokens <= MOST_TOKENS and kept == 1

    def renew(self, cache: Mapping[str, Any], capacity: int) -> None:
        """Use another cache from now on: arrays or OrtValues by input name, for `capacity` tokens."""
        self._cache = cache
        self._widths.clear()
        self._host_mask = np.zeros((1, capacity), np.int64)
        self._mask = self._on_device(self._host_mask)

    def run(self, tokens: NDArray[np.int64], total: int) -> NDArray[Any]:
        """Append tokens [n], so that the cache holds `total`; return the logits [1, 1, columns] of the last."""
        width = self._widths.get(len(tokens)) or self._bound(len(tokens))
        width.tokens.update_inplace(np.ascontiguousarray(tokens[None]))
        self._host_mask[0, :total], self._host_mask[0, total:] = 1, 0
        self._mask.update_inplace(self._host_mask)
        self._session.run_with_iobinding(width.binding, width.options)
        logits: NDArray[Any] = self._logits.numpy()
        return logits

    def _bound(self, count: int) -> _Width:
        binding, tokens = self._session.io_binding(), self._on_device(np.zeros((1, count), np.int64))
        binding.bind_ortvalue_input("input_ids", tokens)
        binding.bind_ortvalue_input("attention_mask", self._mask)
        for past, value in self._cache.items():
            present = past.replace("past_key_values", "present")
            if isinstance(value, np.ndarray):
                where = ("cpu", 0, value.dtype.type, value.shape, value.ctypes.data)
                binding.bind_input(past, *where)
                binding.bind_output(present, *where)
            else:
                binding.bind_ortvalue_input(past, value)
                binding.bind_ortvalue_output(present, value)
        binding.bind_ortvalue_output("logits", self._logits)
        self._graphs += 1
        width = _Width(binding, tokens, _run_options(str(self._graphs)))
        self._widths[count] = width
        return width

    def _on_device(self, array: NDArray[Any]) -> Any:
        import onnxruntime

        return onnxruntime.OrtValue.ortvalue_from_numpy(array, self._device, 0)


def _run_options(graph: str) -> Any:
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph)
    return options
