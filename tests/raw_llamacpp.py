"""What llama.cpp by itself does with files: the oracle of tests about files that end it.

Called as `python raw_llamacpp.py FILE…` it forks for each file, loads it with llama-cpp-python's bindings alone, puts a
text in and runs a few tokens, and prints a line: `ok`, `refused`, or the name of the signal that ended the child.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def outcomes(files: Sequence[Path]) -> list[str]:
    """One word for each file, from a process of its own."""
    command = [sys.executable, __file__, *map(str, files)]
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return result.stdout.split()


def _use(library: Any, file: str) -> str:
    parameters = library.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = library.llama_model_load_from_file(os.fsencode(file), parameters)
    if not model:
        return "refused"
    vocabulary = library.llama_model_get_vocab(model)
    count = library.llama_vocab_n_tokens(vocabulary)
    if count < 1 or not library.llama_vocab_type(vocabulary):
        return "refused"
    text, tokens = "Wie geht's, 世界? 🙂\n".encode(), (ctypes.c_int32 * 256)()
    library.llama_tokenize(vocabulary, text, len(text), tokens, 256, True, True)
    context_parameters = library.llama_context_default_params()
    context_parameters.n_ctx, context_parameters.n_threads, context_parameters.n_threads_batch = 64, 1, 1
    context = library.llama_init_from_model(model, context_parameters)
    if not context:
        return "refused"
    ids = (ctypes.c_int32 * 4)(*(index % count for index in range(4)))
    for length in (4, 1):
        if library.llama_decode(context, library.llama_batch_get_one(ids, length)):
            return "refused"
    return "ok"


def _main(files: Sequence[str]) -> None:
    import llama_cpp.llama_cpp as library

    silent = library.llama_log_callback(lambda level, text, _: None)
    library.llama_log_set(silent, None)
    library.llama_backend_init()
    for file in files:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
            signal.alarm(60)
            os.write(writing, _use(library, file).encode())
            os._exit(0)
        os.close(writing)
        word = os.read(reading, 64).decode()
        os.close(reading)
        _, status = os.waitpid(child, 0)
        print(signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else word, flush=True)


if __name__ == "__main__":
    _main(sys.argv[1:])
