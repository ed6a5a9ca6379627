"""Runs an artifact in a process of its own, for the check after export: `python -m edgeskip.runtime.probe`.

Reads token ids from a .npy file and writes every position's logits to another: the first tokens in one prefill, the
last ones step by step, so that both ways through the KV cache are checked. Prints one JSON object: the tokens of a
greedy continuation and their text.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from edgeskip.manifest import read_manifest
from edgeskip.runtime.engines.onnxruntime_engine import OnnxRuntimeEngine
from edgeskip.runtime.text import TextDecoder, TextTokenizer

STEPS = 8  # tokens that are decoded one by one
GENERATED = 16  # tokens generated afterwards


def probe(folder: Path, tokens_file: Path, logits_file: Path, *, frugal: bool) -> dict[str, object]:
    """Writes logits float32 [n, vocab_size] for the int64 [n] tokens; `generated` tokens and `text` of what follows."""
    manifest = read_manifest(folder)
    decoder = TextDecoder(TextTokenizer(folder))
    engine = OnnxRuntimeEngine(folder, manifest, frugal=frugal)
    tokens = np.load(tokens_file)
    shape = (len(tokens), manifest.graph.vocab_size)
    logits = np.lib.format.open_memmap(logits_file, mode="w+", dtype=np.float32, shape=shape)
    first = len(tokens) - STEPS
    logits[:first] = engine.step(tokens[:first], logits=0)
    for position in range(first, len(tokens)):
        logits[position] = engine.step(tokens[position : position + 1])[0]
    logits.flush()
    last = logits[-1]
    generated: list[int] = []
    for _ in range(min(GENERATED, engine.context_length - len(tokens))):
        generated.append(int(last.argmax()))
        last = engine.step(np.array(generated[-1:], dtype=np.int64))[0]
    return {"generated": generated, "text": "".join(map(decoder.push, generated))}


if __name__ == "__main__":
    folder, tokens_file, logits_file = map(Path, sys.argv[1:4])
    print(json.dumps(probe(folder, tokens_file, logits_file, frugal="--frugal" in sys.argv)))
