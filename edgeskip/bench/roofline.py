"""What a processor gives: bytes read and floating-point operations done a second, measured with as many threads.

Run it in a process whose BLAS has one thread, as `child --device` is: the threads here are ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from edgeskip.bench.record import Roofline
from edgeskip.errors import EdgeSkipError
from edgeskip.machine import this_machine

_READ_BYTES = 192 << 20  # a thread's own array: far more than a cache holds
_SIDE = 2048  # of the matrices multiplied
_MEASURE_S = 1.0  # for each figure: a noisy neighbour's pauses are longer than one repetition


def measure_roofline(provider: str, threads: int) -> Roofline:
    """Bandwidth of reading memory and rate of multiplying matrices, the best within a second each.

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


def _bandwidth(provider: str, threads: int) -> tuple[float | None, str]:
    if provider.startswith("cuda"):
        from edgeskip.bench.roofline_cuda import device_bandwidth

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

        seconds = _best(read_all)
    return threads * (size // 4 * 4) / seconds, f"sdot over {size >> 20} MiB a thread"


def _arithmetic(provider: str, threads: int) -> tuple[float | None, str]:
    """By one MatMul in ONNX Runtime, float16 on accelerators with memory of their own, else float32."""
    import onnxruntime

    from edgeskip.runtime.engines.providers import check_provider, find_provider

    try:
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
        session = onnxruntime.InferenceSession(_matmul_model(dtype), options, providers=names, enable_fallback=0)
        check_provider(session, found)
    except EdgeSkipError as error:
        return None, str(error)
    except Exception as error:  # onnxruntime's own classes share no base but Exception
        return None, " ".join(str(error).split())[:200]
    binding = session.io_binding()
    for name in "AB":
        value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ones((_SIDE, _SIDE), dtype), found.device, 0)
        binding.bind_ortvalue_input(name, value)
    output = onnxruntime.OrtValue.ortvalue_from_shape_and_type((_SIDE, _SIDE), dtype, found.device, 0)
    binding.bind_ortvalue_output("C", output)
    seconds = _best(lambda: session.run_with_iobinding(binding))
    return 2.0 * _SIDE**3 / seconds, f"MatMul of {_SIDE} in {np.dtype(dtype).name}, ONNX Runtime"


def _best(work: Callable[[], object]) -> float:
    """Seconds, the least of as many times as fit, three at least."""
    found: list[float] = []
    end = time.perf_counter() + _MEASURE_S
    while len(found) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return min(found)


def _matmul_model(dtype: type[np.floating]) -> bytes:
    """A ModelProto with one node, C = A·B; the onnx package is not part of the runtime.

    Numbers are the fields of onnx.proto3, in protocol buffers' wire format.
    """
    element = {np.float32: 1, np.float16: 10}[dtype]  # TensorProto.DataType

    def number(field: int, value: int) -> bytes:
        low, high = value & 0x7F, value >> 7
        return bytes([field << 3, low | 0x80, high] if high else [field << 3, low])

    def text(field: int, value: bytes) -> bytes:
        assert len(value) < 1 << 14
        length = [len(value) & 0x7F | 0x80, len(value) >> 7] if len(value) > 0x7F else [len(value)]
        return bytes([field << 3 | 2, *length]) + value

    shape = text(2, text(1, number(1, _SIDE)) * 2)  # Tensor.shape: two dims
    kind = text(2, text(1, number(1, element) + shape))  # ValueInfo.type: a tensor of `element`
    node = text(1, b"A") + text(1, b"B") + text(2, b"C") + text(4, b"MatMul")
    values = [text(field, text(1, name) + kind) for field, name in ((11, b"A"), (11, b"B"), (12, b"C"))]
    graph = text(1, node) + text(2, b"matmul") + b"".join(values)
    return number(1, 8) + text(7, graph) + text(8, number(2, 17))  # IR version 8, operators of opset 17
