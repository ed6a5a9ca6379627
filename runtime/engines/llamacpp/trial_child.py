"""The child that opens a GGUF of unknown origin before the user's process does.

    python -m edgeskip.runtime.engines.llamacpp.trial_child PROVIDER SIZE FILE

It prints one line before it touches the file, and another if llama.cpp refuses the file with an error.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

from edgeskip.core.child_exit import without_core_dump
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.user_errors import one_line
from edgeskip.runtime.engines.llamacpp.engine import LlamaCppEngine
from edgeskip.runtime.engines.llamacpp.model import LlamaModel
from edgeskip.runtime.engines.llamacpp.text import GgufTokenizer, gguf_chat_template
from edgeskip.runtime.engines.llamacpp.trial import BEGUN, LIMITS, REFUSED

# Characters of one to four bytes, so that a vocabulary without them is met here.
_TEXT = "The quay stands 9 m high.\n\tЩука, 東京, naïve “” 🙂 \x00\x7f ½"


def main(provider: str, size: str, path: str) -> int:
    """Open the model file and use it a little; return the exit code."""
    _limit(provider, int(size))
    print(BEGUN, flush=True)
    try:
        model = LlamaModel(Path(path), provider, tried=True)
    except EdgeSkipError as error:
        print(REFUSED + one_line(str(error)))
        return 0
    with suppress(Exception):  # no signal: the caller may use it otherwise, and say what is wrong itself
        _use(model)
    return 0


def _use(model: LlamaModel) -> None:
    """Do a little of everything that the runtime does with a model."""
    tokenizer = GgufTokenizer(model)
    with suppress(EdgeSkipError):
        tokenizer.encode(_TEXT, add_special_tokens=True)
    tokenizer.encode("a", add_special_tokens=True)
    for token in (*range(min(model.vocab_size, 512)), model.vocab_size - 1):
        tokenizer.piece(token)
        tokenizer.text_of(token)
    gguf_chat_template(model, tokenizer)
    len(tokenizer.end_tokens)
    engine = LlamaCppEngine(model)
    room = min(engine.context_length, 6)
    engine.step(np.arange(max(room - 2, 1), dtype=np.int64) % model.vocab_size)
    if room > 2:
        engine.step(np.array([model.vocab_size - 1], np.int64))
        engine.truncate(1)
        engine.step(np.array([0], np.int64))


def _limit(provider: str, size: int) -> None:
    """Limit memory and processor time, if the system can; leave no core file."""
    without_core_dump()
    try:
        import resource
    except ImportError:
        return
    seconds = int(LIMITS.processor_seconds + size / 1e9 * LIMITS.processor_seconds_per_gigabyte)
    limits = [(resource.RLIMIT_CPU, seconds)]
    if provider.lower() == "cpu":  # drivers of accelerators map far more than they use
        limits.append((resource.RLIMIT_AS, LIMITS.memory_bytes + 4 * size))
    for which, most in limits:
        _, hard = resource.getrlimit(which)
        with suppress(ValueError, OSError):
            resource.setrlimit(which, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
