"""The environment that onnxruntime's WASM module starts with: a variable written into its script, as none is asked for.

GroupQueryAttention works on tiles that fit the L2 cache when there is more than one new token. WebAssembly knows no L2
cache, so a tile is one token by one there, and attention takes nine times as long as without tiles (onnxruntime 1.30;
its issues 29613 and 33196): more than half of the time of a prompt of 512 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeskip.core.errors import EdgeSkipError

SWITCH = "ORT_GQA_DISABLE_FLASH_ATTENTION"
"""The variable that ONNX Runtime looks for whenever it opens a model: 1 = no tiles."""

_PLACE = b'PATH:"/",'  # in the list of what Emscripten's getenv knows; once in each file of the pinned package


def patch_environment(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The page's packages by base name, onnxruntime's scripts changed. EdgeSkipError where there is no place."""
    return {name: _with_switch(name, data) if _is_glue(name) else data for name, data in files.items()}


def _is_glue(name: str) -> bool:
    return name.startswith("ort-wasm-") and name.endswith(".mjs")


def _with_switch(name: str, data: bytes) -> bytes:
    if data.count(_PLACE) != 1:
        raise EdgeSkipError(f"{name} is not of the onnxruntime-web that EdgeSkip pins: its environment is not found")
    return data.replace(_PLACE, _PLACE + f'{SWITCH}:"1",'.encode())
