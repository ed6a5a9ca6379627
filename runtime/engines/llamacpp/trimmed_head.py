"""A draft head over part of the vocabulary (FR-Spec, arXiv 2502.14856), which llama.cpp's models cannot have: exit
state in, draft logits out. Reads the side file that the export writes and multiplies with ggml, below llama.cpp.

Not numpy: its BLAS leaves threads spinning that take the cores from llama.cpp's (a draft step of SmolLM2, 2 ms, took 8
with them), and knows no float16. **measured**, 8192 x 576 within a draft step, one thread: ggml 0.25 ms, numpy without
BLAS 0.65 (float32), llama.cpp's head over all 49,152 tokens (Q8_0) 1.0.
"""

from __future__ import annotations

import ctypes
import hashlib
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.safetensors_bytes import read_arrays
from edgeskip.runtime.engines.llamacpp.library import ggml_function, too_old

_LARGEST = 4 << 30  # bytes: 262k tokens of 8,192 values
EPS = "eps"  # key of the file's metadata
_BYTES_PER_THREAD = 16 << 20  # starting a thread costs as much as one takes to read a few MB
_WIDEST = 1 << 20  # hidden size
_F32, _F16, _CPU = 0, 1, 0  # ggml_type, ggml_type, ggml_backend_dev_type
_SET_THREADS = "ggml_backend_set_n_threads"
_pointer, _size = ctypes.c_void_p, ctypes.c_size_t


class _Parameters(ctypes.Structure):
    """ggml_init_params (ggml.h)."""

    _fields_ = [("mem_size", _size), ("mem_buffer", _pointer), ("no_alloc", ctypes.c_bool)]


class TrimmedHead:
    """Draft logits = `head` · x / sqrt(mean(x²) + `eps`) of an exit state x [d]; the norm's weight is in `head`.

    `head` float16 [V', d]; `tokens` int64 [V'] are the ids of its rows. `threads` are the most it may use.
    """

    def __init__(
        self, head: NDArray[np.float16], tokens: NDArray[np.int64], eps: float, *, threads: int = 1, name: str = "head"
    ) -> None:
        rows, width = head.shape
        self.tokens = tokens
        self._width, self._name = width, name
        self._logits = np.empty((1, rows), np.float32)
        self._compute = ggml_function("ggml_backend_graph_compute", ctypes.c_int, (_pointer, _pointer))
        self._put = ggml_function("ggml_backend_tensor_set", None, (_pointer, _pointer, _size, _size))
        self._get = ggml_function("ggml_backend_tensor_get", None, (_pointer, _pointer, _size, _size))
        self._owned: list[weakref.finalize[..., TrimmedHead]] = []
        self._backend = self._open_backend(min(threads, 1 + head.nbytes // _BYTES_PER_THREAD))
        context = self._open_context()
        tensor = ggml_function("ggml_new_tensor_2d", _pointer, (_pointer, ctypes.c_int, *(ctypes.c_int64,) * 2))
        weight = tensor(context, _F16, width, rows)
        self._state = tensor(context, _F32, width, 1)
        rms_norm = ggml_function("ggml_rms_norm", _pointer, (_pointer, _pointer, ctypes.c_float))
        product = ggml_function("ggml_mul_mat", _pointer, (_pointer,) * 3)
        self._result = product(context, weight, rms_norm(context, self._state, eps))
        self._graph = ggml_function("ggml_new_graph", _pointer, (_pointer,))(context)
        ggml_function("ggml_build_forward_expand", None, (_pointer,) * 2)(self._graph, self._result)
        buffer = ggml_function("ggml_backend_alloc_ctx_tensors", _pointer, (_pointer,) * 2)(context, self._backend)
        if not buffer:
            raise EdgeSkipError(f"not enough memory for {name}: use a smaller --draft-vocab")
        self._own("ggml_backend_buffer_free", buffer)
        stored = np.ascontiguousarray(head, dtype=np.float16)
        self._put(weight, stored.ctypes.data, 0, stored.nbytes)

    def check(self, hidden_size: int, vocab_size: int) -> None:
        """Raise EdgeSkipError if the head belongs to another model."""
        if self._width != hidden_size or self.tokens.min() < 0 or self.tokens.max() >= vocab_size:
            raise EdgeSkipError(f"{self._name} is not of this model: export again")

    def logits(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return draft logits float32 [1, V'] of an exit state [d], contiguous; the next call overwrites the array."""
        logits = self._logits
        self._put(self._state, state.ctypes.data, 0, state.nbytes)
        status = self._compute(self._backend, self._graph)
        if status:
            raise EdgeSkipError(f"ggml cannot compute {self._name} (status {status})")
        self._get(self._result, logits.ctypes.data, 0, logits.nbytes)
        return logits

    def close(self) -> None:
        """Free the weights."""
        for free in reversed(self._owned):
            free()

    def _own(self, free: str, pointer: int) -> None:
        self._owned.append(weakref.finalize(self, ggml_function(free, None, (_pointer,)), pointer))

    def _open_backend(self, threads: int) -> int:
        backend: int | None = ggml_function("ggml_backend_init_by_type", _pointer, (ctypes.c_int, _pointer))(_CPU, None)
        if not backend:
            raise EdgeSkipError("this llama-cpp-python has no CPU backend: install another build of it")
        self._own("ggml_backend_free", backend)
        device = ggml_function("ggml_backend_get_device", _pointer, (_pointer,))(backend)
        registry = ggml_function("ggml_backend_dev_backend_reg", _pointer, (_pointer,))(device)
        lookup = ggml_function("ggml_backend_reg_get_proc_address", _pointer, (_pointer, ctypes.c_char_p))
        address = lookup(registry, _SET_THREADS.encode())
        if not address:
            raise too_old(_SET_THREADS)
        ctypes.CFUNCTYPE(None, _pointer, ctypes.c_int)(address)(backend, threads)
        return backend

    def _open_context(self) -> int:
        """Return the ggml context that holds the descriptions of tensors and graph; their data is in a buffer."""
        overhead = 8 * ggml_function("ggml_tensor_overhead", _size, ())()
        overhead += ggml_function("ggml_graph_overhead", _size, ())()
        context: int = ggml_function("ggml_init", _pointer, (_Parameters,))(_Parameters(overhead, None, True))
        self._own("ggml_free", context)
        return context


def read_trimmed_head(path: Path, sha256: str, *, threads: int = 1) -> TrimmedHead:
    """Return the head in a safetensors file: `head` float16 [V', d], `tokens` int32 [V'], and `eps` in its metadata.

    Raises EdgeSkipError if the file is missing, damaged, or does not have that hash.
    """
    if not path.is_file():  # a named pipe would be waited for
        raise EdgeSkipError(f"{path} is missing, the draft head of the GGUF: put it beside the file")
    if path.stat().st_size > _LARGEST:
        raise EdgeSkipError(f"{path} is not a draft head, it has more than {_LARGEST >> 30} GiB: export again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise EdgeSkipError(f"{path} is damaged or another export's: copy both files together or export again")
    try:
        arrays, metadata = read_arrays(data)
        head, tokens, eps = arrays["head"], arrays["tokens"], float(metadata[EPS])
    except (KeyError, TypeError, ValueError) as error:
        raise EdgeSkipError(f"{path} is not a draft head ({error}): export again") from None
    if (
        head.ndim != 2
        or (head.dtype, tokens.dtype) != (np.dtype(np.float16), np.dtype(np.int32))
        or tokens.shape != head.shape[:1]
        or not head.size  # ggml asserts that a matrix has elements, and that eps is not negative
        or head.shape[1] > _WIDEST
        or not 0 <= eps <= 1
    ):
        raise EdgeSkipError(
            f"{path} is not a draft head (shapes {head.shape} and {tokens.shape}, eps {eps}): export again"
        )
    return TrimmedHead(head, tokens.astype(np.int64), eps, threads=threads, name=str(path))
