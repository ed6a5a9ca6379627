"""llama.cpp's own tokenizer as an oracle, through llama-cpp-python's low-level API."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import gguf


class LlamaCppVocabulary:
    """llama.cpp's own tokenizer on a GGUF that holds a vocabulary and nothing else."""

    def __init__(self, path: Path, metadata: dict[str, Any]) -> None:
        import llama_cpp

        writer = gguf.GGUFWriter(path, "llama")
        for key, value in metadata.items():
            if isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, int):
                writer.add_uint32(key, value)
            elif isinstance(value, str):
                writer.add_string(key, value)
            else:
                writer.add_array(key, value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        self.library = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p())
        settings = llama_cpp.llama_model_default_params()
        settings.vocab_only = True
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        assert self.model, "llama.cpp does not load the file"
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)

    def encode(self, text: str, *, add: bool, parse: bool) -> list[int]:
        data = text.encode()
        room = len(data) + 8
        ids = (self.library.llama_token * room)()
        count = self.library.llama_tokenize(self.vocabulary, data, len(data), ids, room, add, parse)
        assert count >= 0
        return list(ids[:count])

    def close(self) -> None:
        self.library.llama_model_free(self.model)
        self.library.llama_log_set(self.library.llama_log_callback(), ctypes.c_void_p())
