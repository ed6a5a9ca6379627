"""llama.cpp's own quantiser, in a process of its own: `python -m edgeskip.exporters.gguf.quantise IN OUT TYPE`.

A failed assertion in it ends the process it runs in, and it prints what it does, so it gets one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from edgeskip.errors import EdgeSkipError, MissingExtraError


def quantise(source: Path, target: Path, file_type: int) -> None:
    """Quantises the F16 GGUF `source` to `target`; `file_type` is a llama_ftype (llama.h), as `general.file_type`.

    EdgeSkipError where llama-cpp-python is missing or llama.cpp refuses.
    """
    from importlib.util import find_spec

    if find_spec("llama_cpp") is None:
        raise MissingExtraError("llama-cpp-python", "llamacpp")
    # -P: nothing that lies in the current folder is imported.
    command = [sys.executable, "-P", "-m", __name__, str(source), str(target), str(file_type)]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if result.returncode or not target.is_file():
        lines = [line for line in result.stderr.strip().splitlines() if line.strip()] or ["no message"]
        raise EdgeSkipError(f"llama.cpp cannot quantise this model: {lines[-1]}: choose another --precision")


def _main(source: str, target: str, file_type: str) -> int:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = int(file_type)
    return int(llama_cpp.llama_model_quantize(source.encode(), target.encode(), params))


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
