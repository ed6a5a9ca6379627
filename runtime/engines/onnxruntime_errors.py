"""What ONNX Runtime's errors while a graph runs mean to a user."""

from __future__ import annotations

import re

from edgeskip.errors import EdgeSkipError
from edgeskip.runtime.engines.onnxruntime_session import first_line

# What its allocators say: BFCArena and the plain CPU allocator, C++, CUDA, DirectML, WebGPU, OpenVINO. Not just
# "memory" or "alloc": a buffer of another shape is "pre-allocated", and a function is AllocateAsPerAllocationPlan.
_NO_MEMORY = re.compile(
    r"bad[ _]?(?:array_new_length|alloc)|out of memory|outofmemory|(?:failed|cannot|could not|unable) to allocate"
    r"|cannot allocate|can't allocate|not enough (?:memory|space)|insufficient memory"
    r"|memory allocation (?:failed|error)|allocation failed|smaller than requested bytes|memory limit exceeded",
    re.IGNORECASE,
)


def lack_of_memory(error: Exception, provider: str, tokens: int) -> EdgeSkipError | None:
    """What to tell a user if `error`, from a run over `tokens` tokens on `provider`, says that memory is short."""
    text = str(error)
    if not (isinstance(error, MemoryError) or _NO_MEMORY.search(text)):
        return None
    return EdgeSkipError(
        f"not enough memory for {tokens} tokens on {provider} ({first_line(error) or 'allocation failed'}): "
        "use a shorter prompt or a smaller model"
    )
