"""llama.cpp's own quantizer, run as `python -m edgeskip.exporters.gguf.quantize` with the arguments of `_main`.

A failed assertion in it ends the process it runs in, and it prints what it does, so it gets one.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.child_exit import MemoryWatch, how_it_ended, signal_name
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.llamacpp.library import llama, too_old

_ENTRY = "llama_model_imatrix_data"


def check_quantizer() -> None:
    """Raise EdgeSkipError if llama-cpp-python is missing, or too old to be given importances."""
    if not hasattr(llama(), _ENTRY):
        raise too_old(_ENTRY)


def quantize_file(
    source: Path,
    target: Path,
    file_type: int,
    importance: Mapping[str, NDArray[np.float32]],
    *,
    embedding_type: int | None = None,
) -> None:
    """Quantize the F16 GGUF `source` to `target`; `file_type` is a llama_ftype (llama.h), as `general.file_type`.

    `importance`: tensor name → mean square of each input [in], what llama.cpp calls an importance matrix; a tensor
    without one has its own error minimized. `embedding_type`: ggml's type for the embedding, None = llama.cpp's choice.

    Raises:
        EdgeSkipError: If llama.cpp refuses.
    """
    check_quantizer()
    with tempfile.TemporaryDirectory(prefix="edgeskip-quantize-") as scratch:
        entries = Path(scratch) / "importance.npz"
        np.savez(entries, **importance)  # type: ignore[arg-type]
        # -P: nothing that lies in the current folder is imported.
        command = [sys.executable, "-P", "-m", __name__, str(source), str(target), str(file_type), str(entries)]
        if embedding_type is not None:
            command.append(str(embedding_type))
        watch = MemoryWatch()
        result = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if signal_name(result.returncode) is not None:
        raise EdgeSkipError(f"llama.cpp's quantizer {how_it_ended(result.returncode, watch)}")
    if result.returncode or not target.is_file():
        lines = [line for line in result.stderr.strip().splitlines() if line.strip()] or ["no message"]
        raise EdgeSkipError(f"llama.cpp cannot quantize this model: {lines[-1]}: choose another --precision")


def _main(source: str, target: str, file_type: str, importance: str, embedding_type: str | None = None) -> int:
    import llama_cpp.llama_cpp as library

    with np.load(importance) as stored:
        arrays = {name: np.ascontiguousarray(stored[name], dtype=np.float32) for name in stored.files}
    entries = (getattr(library, _ENTRY) * (len(arrays) + 1))()  # the last one stays empty and ends the list
    for entry, (name, array) in zip(entries, arrays.items(), strict=False):
        entry.name, entry.size = name.encode(), array.size
        entry.data = array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    params = library.llama_model_quantize_default_params()
    params.ftype = int(file_type)
    params.imatrix = entries
    if embedding_type is not None:
        params.token_embedding_type = int(embedding_type)
    return int(library.llama_model_quantize(source.encode(), target.encode(), params))


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
