"""A model of one block for llama.cpp's self-test: written as a GGUF file, loaded and run as every other is.

Its attention and feed-forward network are computed but end in zero matrices, so that its logits are
head · (norm · x / rms(x)) of the last token's embedding x, which numpy knows; whatever is not a number still shows.
"""

from __future__ import annotations

import ctypes
import os
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.llamacpp.library import failure, listen, load

_WIDTH, _TOKENS, _HEADS, _EPS = 64, 48, 2, 1e-5
_UINT32, _FLOAT32, _STRING = 4, 6, 8  # gguf_metadata_value_type (ggml's docs/gguf.md)
_KEYS: dict[str, int | float | str] = {
    "general.architecture": "llama",
    "llama.context_length": 64,
    "llama.embedding_length": _WIDTH,
    "llama.block_count": 1,
    "llama.feed_forward_length": _WIDTH,
    "llama.attention.head_count": _HEADS,
    "llama.attention.layer_norm_rms_epsilon": _EPS,
    "llama.rope.dimension_count": _WIDTH // _HEADS,
    "llama.vocab_size": _TOKENS,
    "tokenizer.ggml.model": "no_vocab",
}
Tensors = dict[str, NDArray[Any]]


def logits_error(rows: int) -> float:
    """Return the relative error of the logits after a prompt of `rows` tokens; infinite if llama.cpp fails."""
    tensors = _tensors()
    prompt = (np.arange(rows) * 7 % _TOKENS).astype(np.int32)
    with tempfile.TemporaryDirectory(prefix="edgeskip-self-test-") as folder:
        path = Path(folder) / "tiny.gguf"
        path.write_bytes(gguf_bytes(tensors))
        found = _run(path, prompt)
    state = tensors["token_embd.weight"][prompt[-1]].astype(np.float32)
    normed = tensors["output_norm.weight"] * state / np.sqrt(np.mean(state**2) + _EPS)
    wanted = tensors["output.weight"].astype(np.float32) @ normed
    return float("inf") if found is None else float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def _tensors() -> Tensors:
    """Return the model's tensors: matrices [out, in] float16, norms float32."""
    random = np.random.default_rng(11)
    square, rows = (_WIDTH, _WIDTH), (_TOKENS, _WIDTH)
    names = {"token_embd": rows, "output": rows}
    names |= {f"blk.0.{name}": square for name in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up")}
    found: Tensors = {
        f"{name}.weight": random.standard_normal(shape, np.float32).astype(np.float16) for name, shape in names.items()
    }
    found |= {f"blk.0.{name}.weight": np.zeros(square, np.float16) for name in ("attn_output", "ffn_down")}
    norms = ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")
    return found | {f"{name}.weight": random.uniform(0.5, 2, _WIDTH).astype(np.float32) for name in norms}


def gguf_bytes(tensors: Tensors) -> bytes:
    """Return a GGUF file, version 3 (ggml's docs/gguf.md): header, keys, descriptions of the tensors, their data."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(_KEYS))
    for key, value in _KEYS.items():
        if isinstance(value, str):
            head += text(key) + struct.pack("<I", _STRING) + text(value)
        else:
            kind, form = (_UINT32, "<II") if isinstance(value, int) else (_FLOAT32, "<If")
            head += text(key) + struct.pack(form, kind, value)
    data = b""
    for name, array in tensors.items():
        sizes = array.shape[::-1]  # the innermost first
        kind = int(array.dtype == np.float16)  # ggml_type
        head += text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, len(data))
        data += array.tobytes()
        data += bytes(-len(data) % 32)
    return head + bytes(-len(head) % 32) + data


def _run(path: Path, prompt: NDArray[np.int32]) -> NDArray[np.float32] | None:
    """Return the logits [tokens] after the prompt; None if llama.cpp cannot compute them."""
    library = load()
    parameters = library.llama_model_default_params()
    no_devices = (ctypes.c_void_p * 1)(None)
    parameters.devices, parameters.n_gpu_layers = ctypes.addressof(no_devices), 0
    listen()
    model = library.llama_model_load_from_file(os.fsencode(path), parameters)
    if not model:
        raise EdgeSkipError(f"llama.cpp cannot load the model of its self-test: {failure()}")
    settings = library.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 64
    settings.n_threads = settings.n_threads_batch = 1
    settings.offload_kqv = settings.op_offload = False
    context = library.llama_init_from_model(model, settings)
    if not context:
        raise EdgeSkipError(f"llama.cpp cannot make a context in its self-test: {failure()}")
    tokens = (ctypes.c_int32 * len(prompt))(*prompt.tolist())
    found = None
    if not library.llama_decode(context, library.llama_batch_get_one(tokens, len(prompt))):
        logits = library.llama_get_logits(context)
        found = np.ctypeslib.as_array(logits, shape=(_TOKENS,)).copy()
    library.llama_free(context)
    library.llama_model_free(model)
    return found
