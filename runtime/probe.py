"""Run an artifact in a separate process, for the check after export: `python -m edgeskip.runtime.probe`.

It reads token ids from a .npy file and writes every position's logits to another one: the first tokens in one prefill,
the last ones step by step, so that both paths through the KV cache are checked. If the artifact drafts, the last tokens
are drafted and verified at once. It prints one JSON object: the tokens of a greedy continuation and their text, and,
with `--questions FILE`, the results of the artifact's own tokenizer and chat template.

With `--draft N` the logits are those of draft number N, each token in a separate draft step; with `--graph JSON`, a
`GraphRecord`, those of another graph in the folder; with `--gates JSON`, FFNs and their scales, those of an online
artifact without these FFNs. `--held-out IN OUT` also runs windows of another text, each from an empty cache.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgeskip.artifacts.manifest import GraphRecord, read_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.detokenizer import TextDecoder
from edgeskip.runtime.engines.artifact import OpenedArtifact
from edgeskip.runtime.engines.interface import DraftingEngine, Engine, OnlineEngine
from edgeskip.runtime.loader import open_artifact

STEPS = 8  # tokens that are decoded one by one, or drafted so
GENERATED = 16  # tokens generated afterwards


def probe(
    artifact: Path,
    tokens_file: Path,
    logits_file: Path,
    *,
    frugal: bool = False,
    alone: bool = False,
    draft: int | None = None,
    graph: GraphRecord | None = None,
    gates: Mapping[str, float] | None = None,
    questions: Mapping[str, Any] | None = None,
    held_out: tuple[Path, Path] | None = None,
) -> dict[str, object]:
    """Write the logits float32 [n, vocab_size] of the tokens int64 [n]; return the `generated` tokens and `text`.

    Args:
        artifact: Folder or GGUF file.
        tokens_file: .npy file of token ids int64 [n].
        logits_file: .npy file to write the logits to.
        frugal: Save memory at the cost of speed.
        alone: Run one graph of several: a pair's first half as the draft that it is, a folder's `model.onnx`.
        draft: Write the logits [n, V'] of that draft, and generate nothing.
        graph: Run another graph of the folder.
        gates: Scales of the FFNs to leave out.
        questions: Texts, conversations and ids for the artifact's own tokenizer and chat template.
        held_out: File of token ids int64 [W, T], and the file for their logits float32 [W, T, vocab_size]; each row
            runs from an empty cache.
    """
    tokens = np.load(tokens_file)
    if graph is not None:
        return {"generated": _write_logits(_engine_over(artifact, graph, frugal=frugal), tokens, logits_file)}
    opened = open_artifact(artifact, frugal=frugal, alone=alone)
    engine = opened.engine
    found: dict[str, object] = {}
    if gates is not None:
        _close_gates(cast(OnlineEngine, engine), gates)  # the export asks only if it made gates
    if draft is not None:
        # open_artifact opens an engine that drafts wherever an export was asked for one.
        np.save(logits_file, _draft_logits(cast(DraftingEngine, engine), tokens, draft))
    else:
        generated = _write_logits(engine, tokens, logits_file)
        found |= {"generated": generated, "text": "".join(map(TextDecoder(opened.tokenizer).push, generated))}
    if questions is not None:
        found |= _text_answers(opened, questions)
    if held_out is not None:
        _write_windows(engine, np.load(held_out[0]), held_out[1])
    return found


def _text_answers(opened: OpenedArtifact, questions: Mapping[str, Any]) -> dict[str, object]:
    """Return ids of texts, prompts (text and ids) of conversations, texts of ids; None for a refused conversation."""
    tokenizer, template = opened.tokenizer, opened.chat_template
    chats: list[tuple[str, list[int]] | tuple[None, None]] = []
    for messages, add_generation_prompt in questions["chats"]:
        try:
            if template is None:
                raise EdgeSkipError("this model has no chat template")
            prompt = template.render(messages, add_generation_prompt=add_generation_prompt)
        except EdgeSkipError:
            chats.append((None, None))
        else:
            chats.append((prompt, tokenizer.encode(prompt, add_special_tokens=False)))
    return {
        "texts": [tokenizer.encode(text, add_special_tokens=bool(special)) for text, special in questions["texts"]],
        "chats": chats,
        "decoded": ["".join(map(TextDecoder(tokenizer).push, ids)) for ids in questions["ids"]],
        "end_tokens": sorted(opened.end_tokens),
    }


def _engine_over(folder: Path, graph: GraphRecord, *, frugal: bool) -> Engine:
    from edgeskip.runtime.engines.onnxruntime.engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine(folder, read_manifest(folder).model_copy(update={"graph": graph}), frugal=frugal)


def _close_gates(engine: OnlineEngine, gates: Mapping[str, float]) -> None:
    skip = np.array([name in gates for name in engine.ffns])
    engine.gate(skip, np.array([gates.get(name, 1.0) for name in engine.ffns], np.float32))


def _write_logits(engine: Engine, tokens: NDArray[np.int64], logits_file: Path) -> list[int]:
    """Write every position's logits and return what greedy decoding appends."""
    shape = (len(tokens), engine.vocab_size)
    logits = np.lib.format.open_memmap(logits_file, mode="w+", dtype=np.float32, shape=shape)
    first = len(tokens) - STEPS
    logits[:first] = engine.step(tokens[:first], logits=0)
    if hasattr(engine, "verify"):
        logits[first:] = _verified(cast(DraftingEngine, engine), tokens[first:])
    else:
        for position in range(first, len(tokens)):
            logits[position] = engine.step(tokens[position : position + 1])[0]
    logits.flush()
    last = logits[-1]
    generated: list[int] = []
    for _ in range(min(GENERATED, engine.context_length - len(tokens))):
        generated.append(int(last.argmax()))
        last = engine.step(np.array(generated[-1:], dtype=np.int64))[0]
    return generated


def _write_windows(engine: Engine, windows: NDArray[np.int64], file: Path) -> None:
    shape = (*windows.shape, engine.vocab_size)
    logits = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
    for number, window in enumerate(windows):
        engine.truncate(0)
        logits[number] = engine.step(window, logits=0)
    logits.flush()


def _verified(engine: DraftingEngine, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Draft all tokens but the last, by each draft in turn, and return the verification's logits of all of them."""
    for position in range(len(tokens) - 1):
        engine.draft(tokens[position : position + 1], which=position % engine.drafts)
    return engine.verify(tokens[-1:])


def _draft_logits(engine: DraftingEngine, tokens: NDArray[np.int64], which: int) -> NDArray[np.float32]:
    rows = [engine.draft(tokens[n : n + 1], which=which).copy() for n in range(len(tokens))]
    return np.concatenate(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="edgeskip.runtime.probe")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("logits", type=Path)
    parser.add_argument("--frugal", action="store_true")
    parser.add_argument("--alone", action="store_true", help="without the other half of a pair")
    parser.add_argument("--draft", type=int, help="number of the draft whose logits are wanted")
    parser.add_argument("--graph", help="record of a graph of the folder whose logits are wanted")
    parser.add_argument("--gates", type=json.loads, help="scales of the FFNs that are left out")
    parser.add_argument("--questions", type=Path, help="texts, conversations and ids for the tokenizer, as JSON")
    parser.add_argument("--held-out", type=Path, nargs=2, help="windows of token ids, and the file for their logits")
    arguments = parser.parse_args()
    asked = None if arguments.questions is None else json.loads(arguments.questions.read_text(encoding="utf-8"))
    found = probe(
        arguments.artifact,
        arguments.tokens,
        arguments.logits,
        frugal=arguments.frugal,
        alone=arguments.alone,
        draft=arguments.draft,
        graph=None if arguments.graph is None else GraphRecord.model_validate_json(arguments.graph),
        gates=arguments.gates,
        questions=asked,
        held_out=arguments.held_out,
    )
    print(json.dumps(found))
