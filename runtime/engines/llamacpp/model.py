"""A GGUF file opened by llama.cpp: its weights, metadata and sizes. Owns the native model, computes nothing."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.engines.llamacpp.files import check_file
from edgeskip.runtime.engines.llamacpp.library import failure, ggml_function, listen, llama

MAGIC = b"GGUF"
_ALL_LAYERS = 0x7FFFFFFF
_OTHER_NAMES = {"mtl": "metal"}
_HELPERS = ("cpu", "blas", "rpc")  # compute on the CPU, speed up parts of it, or are elsewhere


class LlamaModel:
    """The file's weights, mapped into memory, on `provider`'s devices.

    `tried`: this process is the child that a file of unknown origin is opened in first (trial.py).
    EdgeSkipError, with llama.cpp's own reason, if it cannot load the file or the model is not a decoder.
    """

    def __init__(self, path: Path, provider: str = "cpu", *, tried: bool = False) -> None:
        _check_magic(path)
        library = llama()
        devices = find_devices(provider)
        check_file(path, provider, tried=tried)
        self.path = path
        self.provider = provider.lower()
        parameters = library.llama_model_default_params()
        # Without this list llama.cpp takes every device there is; it is for this call only.
        listed = (ctypes.c_void_p * (len(devices) + 1))(*devices, None)
        parameters.devices = ctypes.addressof(listed)
        parameters.n_gpu_layers = _ALL_LAYERS if devices else 0
        listen()
        pointer = library.llama_model_load_from_file(os.fsencode(path), parameters)
        if not pointer:
            raise EdgeSkipError(
                f"llama.cpp cannot load {path}: {failure()}: fetch or export it again, or update llama-cpp-python"
            )
        self._pointer: int | None = pointer
        self._free = weakref.finalize(self, library.llama_model_free, pointer)
        self.context_length = int(library.llama_model_n_ctx_train(pointer))
        self.hidden_size = int(library.llama_model_n_embd(pointer))
        self.num_blocks = int(library.llama_model_n_layer(pointer))
        self.vocab_size = int(library.llama_vocab_n_tokens(self.vocab))
        self._check_kind(library)

    @property
    def pointer(self) -> int:
        """The native `llama_model *`; EdgeSkipError once it is freed."""
        if self._pointer is None:
            raise EdgeSkipError(f"{self.path} is closed: load it again")
        return self._pointer

    @property
    def vocab(self) -> int:
        """The native `const llama_vocab *`; EdgeSkipError once the model is freed."""
        vocab: int = llama().llama_model_get_vocab(self.pointer)
        return vocab

    @cached_property
    def metadata(self) -> dict[str, str]:
        """Every key of the file whose value is not an array, as text: numbers in decimal, `true` and `false`."""
        library, pointer = llama(), self.pointer
        return {
            _text(library.llama_model_meta_key_by_index, pointer, index): _text(
                library.llama_model_meta_val_str_by_index, pointer, index
            )
            for index in range(library.llama_model_meta_count(pointer))
        }

    @cached_property
    def all_f32(self) -> bool:
        """Whether every weight is F32, by llama.cpp's description of the file (a guess if there is none)."""
        buffer = ctypes.create_string_buffer(256)
        llama().llama_model_desc(self.pointer, buffer, len(buffer))
        return b"all F32" in buffer.value

    def close(self) -> None:
        """Free the weights. Contexts over them must be closed before."""
        self._pointer = None
        self._free()

    def _check_kind(self, library: Any) -> None:
        if library.llama_model_has_encoder(self.pointer) or not library.llama_model_has_decoder(self.pointer):
            raise EdgeSkipError(f"{self.path} is not a decoder-only language model; EdgeSkip runs no other kind")
        if self.context_length < 1:
            raise EdgeSkipError(f"{self.path} does not say how long its context is: convert the model again")
        if self.vocab_size < 1:
            raise EdgeSkipError(f"{self.path} has no vocabulary: use a file that carries its tokenizer")


def is_gguf(path: Path) -> bool:
    """Return whether the file starts as every GGUF file does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _check_magic(path: Path) -> None:
    if not path.is_file():
        raise EdgeSkipError(f"{path} is not a file")
    if not is_gguf(path):
        raise EdgeSkipError(f"{path} is not a GGUF file")


def _text(function: Callable[..., int], pointer: int, index: int) -> str:
    """Return the text from one of llama.cpp's functions that write a string and return its length."""
    size = 256
    while True:
        buffer = ctypes.create_string_buffer(size)
        length = function(pointer, index, buffer, size)
        if length < size:
            return buffer.value.decode("utf-8", "replace")
        size = length + 1


def find_devices(provider: str) -> list[int]:
    """Return ggml's device handles behind `provider`, none for `cpu`; EdgeSkipError lists what this build has."""
    devices = _devices()
    name = provider.lower()
    if name == "cpu":
        return []
    usable = ", ".join(["cpu", *devices])
    if name not in devices:
        hint = "" if devices else ": install a build with GPU support, see llama-cpp-python's README"
        raise EdgeSkipError(
            f"this llama-cpp-python cannot run on {provider!r} (available here: {usable}){hint}, or use the "
            "provider cpu"
        )
    return devices[name]


def _devices() -> dict[str, list[int]]:
    """Return the device handles of each provider; empty if this build computes on the CPU alone."""
    if not llama().llama_supports_gpu_offload():
        return {}
    handle: Any = ctypes.c_void_p
    count = ggml_function("ggml_backend_dev_count", ctypes.c_size_t, ())
    get = ggml_function("ggml_backend_dev_get", handle, (ctypes.c_size_t,))
    registry = ggml_function("ggml_backend_dev_backend_reg", handle, (handle,))
    registry_name = ggml_function("ggml_backend_reg_name", ctypes.c_char_p, (handle,))
    devices: dict[str, list[int]] = {}
    for device in map(get, range(count())):
        name = registry_name(registry(device)).decode().lower()
        if name not in _HELPERS:
            devices.setdefault(_OTHER_NAMES.get(name, name), []).append(device)
    return devices
