"""One sequence's KV cache in llama.cpp and the batches that extend it: tokens or hidden states in, logits out.

The batch's arrays are numpy's, made once; a decode step writes four numbers into them.
"""

from __future__ import annotations

import ctypes
import time
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.kv_cache import check_truncation, grown_capacity
from edgeskip.runtime.engines.llamacpp.library import failure, forget_errors, listen, llama
from edgeskip.runtime.engines.llamacpp.model import LlamaModel

BATCH = 512  # most tokens at once: activations grow with it, speed no more
_NO_MEMORY = -2  # llama_decode
_GGML_F32, _NO_FLASH_ATTENTION = 0, 0  # ggml_type, llama_flash_attn_type


@dataclass(frozen=True)
class _Opened:
    """A native context and what belongs to it: replaced all at once, whenever Ctrl-C comes."""

    pointer: int
    memory: int  # llama_memory_t
    capacity: int
    free: Any  # frees it, once


class LlamaContext:
    """The KV cache of one sequence over `model`, and the calls that append to it.

    `callback` is a ctypes function llama.cpp calls for the graph's nodes (`cb_eval`); None = it calls nothing.
    """

    def __init__(self, model: LlamaModel, threads: int, *, callback: Any = None) -> None:
        self._model = model
        self._threads = threads
        self._callback = callback
        self._opened: _Opened | None = None
        self.length = 0
        self.run_s = 0.0  # seconds inside llama.cpp
        self._tokens = np.zeros(BATCH, np.int32)
        self._positions = np.zeros(BATCH, np.int32)
        self._outputs = np.zeros(BATCH, np.int8)
        self._sequence = np.zeros(1, np.int32)  # the one sequence has id 0
        self._sequences = np.full(BATCH, self._sequence.ctypes.data, np.uintp)
        self._counts = np.ones(BATCH, np.int32)
        self._interrupted = False  # a batch ran (or began to) that `length` does not count
        self._batch = self._make_batch()
        self._token_input = _pointer(self._tokens, ctypes.c_int32)

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` tokens in all, and keep what the cache holds."""
        before = self._opened
        if before is not None and tokens <= before.capacity:
            return
        capacity = grown_capacity(tokens, before.capacity if before else 0, self._model.context_length)
        library = llama()
        held = self._held_state(before) if before is not None and self.length else None
        if held is None:
            self._close_context()
        pointer = self._open(capacity)
        free = weakref.finalize(self, library.llama_free, pointer)
        opened = _Opened(pointer, library.llama_get_memory(pointer) or 0, capacity, free)
        try:
            if not opened.memory:
                raise EdgeSkipError(f"{self._model.path} has no KV cache: it is not a decoder-only language model")
            if held is not None and not _put_state(pointer, held):
                raise EdgeSkipError(f"llama.cpp cannot move the KV cache to a larger one: {failure()}")
            self._opened = opened
        finally:  # of the two, the one that is not used
            if self._opened is not opened:
                free()
            elif before is not None:
                before.free()

    def append_tokens(self, tokens: NDArray[np.int64], logits: NDArray[np.float32] | None) -> None:
        """Run tokens int64 [n] and fill `logits` [k, vocab_size], k ≤ n, with those of the last k positions."""
        batch = self._batch
        batch.embd = None
        batch.token = self._token_input
        self.reserve(self.length + len(tokens))
        for start in range(0, len(tokens), BATCH):
            chunk = tokens[start : start + BATCH]
            self._tokens[: len(chunk)] = chunk
            self._run(len(chunk), len(tokens) - start, logits)

    def append_states(self, states: NDArray[np.float32], logits: NDArray[np.float32] | None) -> None:
        """Do the same for hidden states float32 [n, hidden_size], contiguous, instead of the tokens' embeddings."""
        batch = self._batch
        batch.token = None
        self.reserve(self.length + len(states))
        for start in range(0, len(states), BATCH):
            chunk = states[start : start + BATCH]
            batch.embd = _pointer(chunk, ctypes.c_float)
            self._run(len(chunk), len(states) - start, logits)

    def copy_to(self, other: LlamaContext) -> None:
        """Make the KV cache of `other`, over another model with attention in the same places, a copy of this one.

        Raises EdgeSkipError if llama.cpp finds that the two do not fit; `other` is then empty.
        """
        other.truncate(0)
        if not self.length or self._opened is None:
            return
        other.reserve(max(self.length, self._opened.capacity))
        if self._interrupted:
            self._forget_uncounted()
        forget_errors()
        other._interrupted = True
        if other._opened is None or not _put_state(other._opened.pointer, self._held_state(self._opened)):
            raise EdgeSkipError(
                f"{other._model.path} cannot take over the KV cache of {self._model.path} ({failure()}): export both "
                "again"
            )
        other.length = self.length
        other._interrupted = False

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens.

        Raises EdgeSkipError if the model cannot (it has recurrent parts).
        """
        check_truncation(length, self.length)
        if length < self.length:
            self.length = length
            self._interrupted = True
            self._forget_uncounted()

    def close(self) -> None:
        """Free the KV cache."""
        self._close_context()
        self.length = 0

    def _run(self, count: int, left: int, logits: NDArray[np.float32] | None) -> None:
        """Run one batch of `count` tokens, of `left` still to run, and copy its rows of `logits`."""
        wanted = 0 if logits is None else max(0, count - max(0, left - len(logits)))
        self._positions[:count] = np.arange(self.length, self.length + count) if count > 1 else self.length
        self._outputs[:count] = 0
        self._outputs[count - wanted : count] = 1
        batch, library = self._batch, llama()
        opened = self._opened
        assert opened is not None  # reserved
        batch.n_tokens = count
        if self._interrupted:
            self._forget_uncounted()
        forget_errors()
        self._interrupted = True
        begin = time.perf_counter()
        status = library.llama_decode(opened.pointer, batch)
        rows = library.llama_get_logits(opened.pointer) if wanted and not status else None  # waits for the device
        self.run_s += time.perf_counter() - begin
        if status:
            self._fail(status, count)
        self.length += count
        self._interrupted = False
        if rows is not None and logits is not None:
            row_bytes = logits.strides[0]
            first = max(0, len(logits) - left)
            ctypes.memmove(logits.ctypes.data + first * row_bytes, rows, wanted * row_bytes)

    def _forget_uncounted(self) -> None:
        """Drop what the cache holds beyond `length`: Ctrl-C can come between a batch's run and its being counted."""
        opened = self._opened
        if opened is not None and not llama().llama_memory_seq_rm(opened.memory, 0, self.length, -1):
            raise EdgeSkipError(f"{self._model.path} cannot forget single tokens: it has no plain KV cache")
        self._interrupted = False

    def _fail(self, status: int, count: int) -> None:
        if status == _NO_MEMORY:
            raise EdgeSkipError(
                f"not enough memory for {self.length + count} tokens on {self._model.provider} ({failure()}): "
                "use a shorter prompt or a smaller model"
            )
        raise EdgeSkipError(f"llama.cpp cannot run {self._model.path} (status {status}): {failure()}")

    def _open(self, capacity: int) -> int:
        library = llama()
        parameters = library.llama_context_default_params()
        parameters.n_ctx = capacity
        parameters.n_batch = parameters.n_ubatch = BATCH
        parameters.n_seq_max = 1
        parameters.n_threads = parameters.n_threads_batch = self._threads
        parameters.no_perf = True
        if self._model.provider == "cpu":  # a GPU build would lend out the KV cache and large products
            parameters.offload_kqv = parameters.op_offload = False
        if self._model.all_f32:
            # What F32 is asked for. By default K and V are stored as F16 and the fused attention rounds to it: 0.017
            # between the logits of one row and of the same row in a batch, 3e-5 without either (SmolLM2, measured).
            parameters.type_k = parameters.type_v = _GGML_F32
            parameters.flash_attn_type = _NO_FLASH_ATTENTION
        if self._callback is not None:
            parameters.cb_eval = self._callback
        listen()
        pointer: int | None = library.llama_init_from_model(self._model.pointer, parameters)
        if not pointer:
            raise EdgeSkipError(
                f"llama.cpp cannot make a KV cache of {capacity} tokens on {self._model.provider} ({failure()}): "
                "use a shorter prompt or a smaller model"
            )
        return pointer

    def _held_state(self, opened: _Opened) -> NDArray[np.uint8]:
        library = llama()
        state = np.empty(library.llama_state_seq_get_size(opened.pointer, 0), np.uint8)
        size = library.llama_state_seq_get_data(
            opened.pointer, state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), len(state), 0
        )
        return state[:size]

    def _close_context(self) -> None:
        before, self._opened = self._opened, None
        if before is not None:
            before.free()

    def _make_batch(self) -> Any:
        batch = llama().llama_batch()
        batch.pos = _pointer(self._positions, ctypes.c_int32)
        batch.n_seq_id = _pointer(self._counts, ctypes.c_int32)
        batch.seq_id = _pointer(self._sequences, ctypes.POINTER(ctypes.c_int32))
        batch.logits = _pointer(self._outputs, ctypes.c_int8)
        return batch


def _put_state(context: int, state: NDArray[np.uint8]) -> bool:
    """Return whether the context took the sequence's state, which replaces what it held."""
    data = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    return bool(llama().llama_state_seq_set_data(context, data, len(state), 0))


def _pointer(array: NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
