"""Errors that ONNX Runtime raises while a graph runs, explained to users."""

from __future__ import annotations

import re

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.onnxruntime.session import first_line

# What its allocators say: BFCArena and the plain CPU allocator, C++, CUDA, DirectML, WebGPU, OpenVINO. Not just
# "memory" or "alloc": a buffer of another shape is "pre-allocated", and a function is AllocateAsPerAllocationPlan.
_NO_MEMORY = re.compile(
    r"bad[ _]?(?:array_new_length|alloc)|out of memory|outofmemory|(?:failed|cannot|could not|unable) to allocate"
    r"|cannot allocate|can't allocate|not enough (?:memory|space)|insufficient memory"
    r"|memory allocation (?:failed|error)|allocation failed|smaller than requested bytes|memory limit exceeded",
    re.IGNORECASE,
)


def run_error(error: Exception, file: str, provider: str, tokens: int) -> EdgeSkipError | None:
    """Return the error to show a user for `error` from a run of a graph; None if it is not ONNX Runtime's.

    Args:
        error: What was raised.
        file: The graph's.
        provider: The execution provider that ran it, as users name it.
        tokens: How many the cache would have held after the run.
    """
    text = first_line(error)
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return EdgeSkipError(
            f"not enough memory for {tokens} tokens on {provider} ({text or 'allocation failed'}): "
            "use a shorter prompt or a smaller model"
        )
    # Its own classes share no base but Exception, and its Python code raises RuntimeError for some of them.
    if isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime."):
        return EdgeSkipError(
            f"{file} failed on the provider {provider!r} ({text}): export again, and report this if it fails again"
        )
    return None
