"""The child of llama.cpp's self-test: multiplies by every weight type in every way that loading a model may choose.

    python -m edgeskip.runtime.engines.llamacpp.kernel_checks [--apart] [CASE …]

Prints `run CASE` before each case and `ok CASE` or `bad CASE ERROR` after it, so that whoever reads it knows which one
ended the process; with `--apart` each runs in a separate process, and `died CASE SIGNAL` is printed too.

ggml's CPU backend has several kinds of buffers (plain, repacked, AMX), each with its own kernels; a model's weights
go to whichever takes them, so each is tried.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.child_exit import signal_name, without_core_dump
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.llamacpp.library import ggml_function, load
from edgeskip.runtime.engines.llamacpp.self_test import CASES, MOST_MODEL_ERROR, TYPES
from edgeskip.runtime.engines.llamacpp.tiny_model import logits_error

APART = "--apart"
_IN, _OUT = 512, 96  # two of the largest blocks (256); whole tiles of AMX and of the repacked kernels (32)
_HEADS, _HEAD_DIM, _HELD = 2, 64, 48  # of the attention
_F32, _F16, _I32, _CPU = 0, 1, 26, 0
_MASK_ROWS = 64  # older versions want the mask's rows padded so far
_THREADS = 1
_pointer, _size = ctypes.c_void_p, ctypes.c_size_t


def main(arguments: list[str]) -> int:
    without_core_dump()
    wanted = [word for word in arguments if word != APART] or CASES
    # A process that is forked after the library was loaded costs milliseconds; elsewhere fork is not safe then.
    apart = APART in arguments and sys.platform == "linux"
    _tell("run load")
    load()
    _tell("ok load")
    for case in wanted:
        _tell(f"run {case}")
        if apart:
            _run_apart(case)
        else:
            _run(case)
    return 0


def _run(case: str) -> None:
    error, most = run_case(case)
    _tell(f"ok {case}" if error <= most else f"bad {case} {error:.3g}")  # a NaN is bad


def _run_apart(case: str) -> None:
    process = os.fork()
    if not process:
        _run(case)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    if name := signal_name(os.waitstatus_to_exitcode(status)):
        _tell(f"died {case} {name}")


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run_case(case: str) -> tuple[float, float]:
    """Return the worst relative error of one case over the kinds of buffers, and what it may be."""
    name, way = case.split("/")
    random = np.random.default_rng(7)
    if name == "attention":
        return _attention(int(way), random), 1e-2
    if name == "model":
        return logits_error(int(way)), MOST_MODEL_ERROR
    number, most = TYPES[name]
    weights = random.standard_normal((_OUT, _IN), np.float32)
    stored = quantize(weights, number)
    if way == "lookup":
        rows = np.array([0, _OUT - 1, 5], np.int32)
        return _error(_looked_up(stored, number, rows), weights[rows]), most
    inputs = random.standard_normal((int(way), _IN), np.float32)
    wanted = inputs @ weights.T
    found = [_multiplied(stored, number, inputs, kind) for kind in _buffer_kinds()]
    # numpy's max passes a NaN on.
    return float(np.max([_error(result, wanted) for result in found if result is not None])), most


def quantize(weights: NDArray[np.float32], number: int) -> NDArray[np.uint8]:
    """Return the weights [rows, columns] as ggml's type `number`, by ggml's own quantizer."""
    rows, columns = weights.shape
    row_bytes = ggml_function("ggml_row_size", _size, (ctypes.c_int, ctypes.c_int64))(number, columns)
    if number == _F32:
        return weights.view(np.uint8)
    stored = np.zeros((rows, row_bytes), np.uint8)
    arguments = (ctypes.c_int, _pointer, _pointer, *(ctypes.c_int64,) * 3, _pointer)
    quantize = ggml_function("ggml_quantize_chunk", _size, arguments)
    quantize(number, weights.ctypes.data, stored.ctypes.data, 0, rows, columns, None)
    return stored


class _Graph:
    """Tensors, the buffers that hold them, and one run on the CPU."""

    def __init__(self) -> None:
        self._backend = ggml_function("ggml_backend_init_by_type", _pointer, (ctypes.c_int, _pointer))(_CPU, None)
        if not self._backend:
            raise EdgeSkipError("it has no CPU backend")
        overhead = 32 * ggml_function("ggml_tensor_overhead", _size, ())()
        overhead += ggml_function("ggml_graph_overhead", _size, ())()
        self.context = ggml_function("ggml_init", _pointer, (_Parameters,))(_Parameters(overhead, None, True))
        self._set_threads(_THREADS)

    def tensor(self, number: int, *shape: int) -> int:
        """Return a tensor whose innermost dimension comes first."""
        new = ggml_function("ggml_new_tensor", _pointer, (_pointer, ctypes.c_int, ctypes.c_int, _pointer))
        dimensions = (ctypes.c_int64 * len(shape))(*shape)
        return int(new(self.context, number, len(shape), ctypes.addressof(dimensions)))

    def compute(self, result: int, shape: tuple[int, ...], values: dict[int, NDArray[Any]]) -> NDArray[np.float32]:
        graph = ggml_function("ggml_new_graph", _pointer, (_pointer,))(self.context)
        ggml_function("ggml_build_forward_expand", None, (_pointer,) * 2)(graph, result)
        # What has a buffer already, the weights, stays there.
        ggml_function("ggml_backend_alloc_ctx_tensors", _pointer, (_pointer,) * 2)(self.context, self._backend)
        for tensor, value in values.items():
            put(tensor, value)
        status = ggml_function("ggml_backend_graph_compute", ctypes.c_int, (_pointer, _pointer))(self._backend, graph)
        if status:
            return np.full(shape, np.nan, np.float32)
        found = np.empty(shape, np.float32)
        ggml_function("ggml_backend_tensor_get", None, (_pointer, _pointer, _size, _size))(
            result, found.ctypes.data, 0, found.nbytes
        )
        return found

    def _set_threads(self, threads: int) -> None:
        address = _cpu_function("ggml_backend_set_n_threads")
        if address:
            ctypes.CFUNCTYPE(None, _pointer, ctypes.c_int)(address)(self._backend, threads)


class _Parameters(ctypes.Structure):
    """ggml_init_params (ggml.h)."""

    _fields_ = [("mem_size", _size), ("mem_buffer", _pointer), ("no_alloc", ctypes.c_bool)]


def put(tensor: int, value: NDArray[Any]) -> None:
    """Copy a contiguous array into a tensor; a buffer with its own layout converts it here."""
    copy = ggml_function("ggml_backend_tensor_set", None, (_pointer, _pointer, _size, _size))
    copy(tensor, value.ctypes.data, 0, value.nbytes)


def _multiplied(
    stored: NDArray[np.uint8], number: int, inputs: NDArray[np.float32], kind: int
) -> NDArray[np.float32] | None:
    """Return inputs [n, in] times the weights in a buffer of `kind`; None if that kind does not take them."""
    graph = _Graph()
    weight = graph.tensor(number, _IN, _OUT)
    given = graph.tensor(_F32, _IN, len(inputs))
    product = int(ggml_function("ggml_mul_mat", _pointer, (_pointer,) * 3)(graph.context, weight, given))
    allocate = ggml_function("ggml_backend_buft_alloc_buffer", _pointer, (_pointer, _size))
    room = ggml_function("ggml_backend_buft_get_alloc_size", _size, (_pointer, _pointer))(kind, weight)
    buffer = allocate(kind, room)
    if not buffer:
        return None
    base = ggml_function("ggml_backend_buffer_get_base", _pointer, (_pointer,))(buffer)
    ggml_function("ggml_backend_tensor_alloc", ctypes.c_int, (_pointer,) * 3)(buffer, weight, base)
    supports = ggml_function("ggml_backend_dev_supports_op", ctypes.c_bool, (_pointer,) * 2)
    if not supports(_cpu_device(), product):
        return None
    put(weight, stored)
    return graph.compute(product, (len(inputs), _OUT), {given: inputs})


def _looked_up(stored: NDArray[np.uint8], number: int, rows: NDArray[np.int32]) -> NDArray[np.float32]:
    graph = _Graph()
    weight, given = graph.tensor(number, _IN, _OUT), graph.tensor(_I32, len(rows))
    found = int(ggml_function("ggml_get_rows", _pointer, (_pointer,) * 3)(graph.context, weight, given))
    return graph.compute(found, (len(rows), _IN), {weight: stored, given: rows})


def _attention(rows: int, random: np.random.Generator) -> float:
    """Return the error of the fused attention over float16 K and V, a context's default, against softmax(QKᵀ)V."""
    entry = "ggml_flash_attn_ext"
    graph = _Graph()
    shapes = ((_F32, rows), (_F16, _HELD), (_F16, _HELD))
    q, k, v = (graph.tensor(number, _HEAD_DIM, count, _HEADS) for number, count in shapes)
    mask = graph.tensor(_F16, _HELD, _MASK_ROWS)
    arguments = (*(_pointer,) * 5, *(ctypes.c_float,) * 3)
    scale = 1 / math.sqrt(_HEAD_DIM)
    result = int(ggml_function(entry, _pointer, arguments)(graph.context, q, k, v, mask, scale, 0.0, 0.0))
    arrays = {q: random.standard_normal((_HEADS, rows, _HEAD_DIM), np.float32)}
    for tensor in (k, v):
        arrays[tensor] = random.standard_normal((_HEADS, _HELD, _HEAD_DIM), np.float32).astype(np.float16)
    arrays[mask] = np.zeros((_MASK_ROWS, _HELD), np.float16)
    found = graph.compute(result, (rows, _HEADS, _HEAD_DIM), arrays)
    scores = scale * arrays[q] @ arrays[k].astype(np.float32).swapaxes(1, 2)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = shares / shares.sum(-1, keepdims=True) @ arrays[v].astype(np.float32)
    return _error(found, wanted.swapaxes(0, 1))


def _error(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def _cpu_device() -> int:
    return int(ggml_function("ggml_backend_dev_by_type", _pointer, (ctypes.c_int,))(_CPU))


def _cpu_function(name: str) -> int | None:
    """Return the address of a function that only the CPU backend has."""
    registry = ggml_function("ggml_backend_dev_backend_reg", _pointer, (_pointer,))(_cpu_device())
    lookup = ggml_function("ggml_backend_reg_get_proc_address", _pointer, (_pointer, ctypes.c_char_p))
    address: int | None = lookup(registry, name.encode())
    return address


def _buffer_kinds() -> list[int]:
    """Return the kinds of buffers of the CPU that llama.cpp puts weights in: the plain one first."""
    device = _cpu_device()
    kinds = [int(ggml_function("ggml_backend_dev_buffer_type", _pointer, (_pointer,))(device))]
    address = _cpu_function("ggml_backend_dev_get_extra_bufts")
    if address:
        listed: Callable[[int], Any] = ctypes.CFUNCTYPE(ctypes.POINTER(_pointer), _pointer)(address)
        extra = listed(device)
        index = 0
        while extra and extra[index]:
            kinds.append(int(extra[index]))
            index += 1
    return kinds


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except EdgeSkipError as error:
        print(f"error {error}", flush=True)
        sys.exit(2)
