"""The roofline of a processor: bytes read and floating-point operations done a second, with so many threads.

Run it in a process whose BLAS has one thread, as `child --device` is: the threads here are ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from edgeskip.bench.schema import Device, Roofline
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.machine import this_machine

_READ_BYTES = 192 << 20  # a thread's own array: far more than a cache holds
_CPU_SIDES = (512, 2048)  # of the matrices multiplied
_ACCELERATOR_SIDES = (2048, 4096)
_MEASURE_S = 1.0  # for each figure: a noisy neighbor's pauses are longer than one repetition


def measure_roofline(provider: str, threads: int) -> Roofline:
    """Measure the rate of reading memory and of multiplying matrices, the best within a second each.

    What cannot be measured on `provider` is None, and `how` says why.
    """
    bytes_per_s, read = _bandwidth(provider, threads)
    flops_per_s, multiplied = _arithmetic(provider, threads)
    return Roofline(
        provider=provider,
        threads=threads,
        bytes_per_s=bytes_per_s,
        flops_per_s=flops_per_s,
        how=f"bytes: {read}; operations: {multiplied}; the best within {_MEASURE_S:g} s each",
    )


def merge_rooflines(device: Device, again: Sequence[Roofline]) -> Device:
    """Return the device with its rooflines and `again` merged: the higher rate of bytes and of operations each."""
    found = {(one.provider, one.threads): one for one in device.rooflines}
    for one in again:
        key = (one.provider, one.threads)
        found[key] = _higher(found[key], one) if key in found else one
    return device.model_copy(update={"rooflines": list(found.values())})


def _higher(one: Roofline, other: Roofline) -> Roofline:
    """Return the higher rates; `how` is that of the one that was measured."""
    measured = one if one.bytes_per_s or one.flops_per_s else other
    return measured.model_copy(
        update={
            "bytes_per_s": max(one.bytes_per_s or 0.0, other.bytes_per_s or 0.0) or None,
            "flops_per_s": max(one.flops_per_s or 0.0, other.flops_per_s or 0.0) or None,
        }
    )


def _bandwidth(provider: str, threads: int) -> tuple[float | None, str]:
    if provider.startswith("cuda"):
        from edgeskip.bench.runner.roofline_cuda import device_bandwidth

        return device_bandwidth(_MEASURE_S)
    if provider not in ("cpu", "xnnpack", "openvino", "openvino:cpu"):
        return None, "not measured on this provider"
    size = _READ_BYTES
    available = this_machine().available_memory_bytes
    if available is not None:
        size = min(size, max(_READ_BYTES // 16, available // (4 * threads)))
    with ThreadPoolExecutor(threads) as pool:
        arrays = list(pool.map(lambda _: np.ones(size // 4, np.float32), range(threads)))

        def read_all() -> None:
            list(pool.map(lambda array: float(np.dot(array, array)), arrays))

        seconds = _best_seconds(read_all)
    return threads * (size // 4 * 4) / seconds, f"sdot over {size >> 20} MiB a thread"


def _arithmetic(provider: str, threads: int) -> tuple[float | None, str]:
    """Time a MatMul with a constant matrix in ONNX Runtime, as a model's are; the best of two sizes.

    float16 on accelerators with their own memory, else float32.
    """
    found: list[tuple[float, str]] = []
    failed = ""
    for size in (0, 1):
        try:
            session, device, dtype = _open_matmul(provider, threads, size)
            side = _sides(device)[size]
            rate = 2.0 * side**3 / _product_seconds(session, device, dtype, side)
            found.append((rate, f"MatMul of {side} in {np.dtype(dtype).name}, ONNX Runtime"))
        except EdgeSkipError as error:
            failed = str(error)
        except Exception as error:  # onnxruntime's own classes share no base but Exception
            failed = " ".join(str(error).split())[:200]
    return max(found) if found else (None, failed)


def _sides(device: str) -> tuple[int, int]:
    """Return matrix sizes: some processors are best if they fit a core's cache, others if there is much to do."""
    return _CPU_SIDES if device == "cpu" else _ACCELERATOR_SIDES


def _open_matmul(provider: str, threads: int, size: int) -> tuple[Any, str, type[np.floating]]:
    """Return a session that multiplies, the device its matrices lie on, their type."""
    import onnxruntime

    from edgeskip.runtime.engines.onnxruntime.providers import check_provider, find_provider

    found = find_provider(provider.removesuffix(":graphs"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    names: list[object] | None = [(found.execution_provider, found.options(threads))]
    if found.plugin:
        options.add_provider_for_devices(list(found.plugin), found.options(threads))
        names = None
    dtype = np.float16 if found.device != "cpu" else np.float32
    session = onnxruntime.InferenceSession(
        _matmul_model(dtype, _sides(found.device)[size]), options, providers=names, enable_fallback=0
    )
    check_provider(session, found)
    return session, found.device, dtype


def _product_seconds(session: Any, device: str, dtype: type[np.floating], side: int) -> float:
    """Time one product, its matrices on the processor's own memory."""
    import onnxruntime

    binding = session.io_binding()
    binding.bind_ortvalue_input("A", onnxruntime.OrtValue.ortvalue_from_numpy(np.ones((side, side), dtype), device, 0))
    output = onnxruntime.OrtValue.ortvalue_from_shape_and_type((side, side), dtype, device, 0)
    binding.bind_ortvalue_output("C", output)
    return _best_seconds(lambda: session.run_with_iobinding(binding))


def _best_seconds(work: Callable[[], object]) -> float:
    """Return the least seconds of as many runs as fit, three at least."""
    found: list[float] = []
    end = time.perf_counter() + _MEASURE_S
    while len(found) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return min(found)


def _matmul_model(dtype: type[np.floating], side: int) -> bytes:
    """Return a ModelProto with one node, C = A·B with B constant; the onnx package is not part of the runtime.

    Numbers are the fields of onnx.proto3, in protocol buffers' wire format.
    """
    from edgeskip.runtime.engines.onnxruntime.model_bytes import integer_field, length_field

    element = {np.float32: 1, np.float16: 10}[dtype]  # TensorProto.DataType
    dims = integer_field(1, side)
    shape = length_field(2, length_field(1, dims) * 2)  # Tensor.shape: two dims
    kind = length_field(2, length_field(1, integer_field(1, element) + shape))  # ValueInfo.type
    data = length_field(9, np.ones((side, side), dtype).tobytes())
    constant = dims * 2 + integer_field(2, element) + length_field(8, b"B") + data
    node = length_field(1, b"A") + length_field(1, b"B") + length_field(2, b"C") + length_field(4, b"MatMul")
    values = [length_field(field, length_field(1, name) + kind) for field, name in ((11, b"A"), (12, b"C"))]
    graph = length_field(1, node) + length_field(2, b"matmul") + length_field(5, constant) + b"".join(values)
    # IR version 8, operators of opset 17
    return integer_field(1, 8) + length_field(7, graph) + length_field(8, integer_field(2, 17))
