"""Self-distilled data: the model's own answers to prompts, written as they come, so that no corpus is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file
from edgeskip.core.json_file import parse_json
from edgeskip.core.notes import note

if TYPE_CHECKING:
    from edgeskip.models.source import ModelSource
    from edgeskip.training.config import SelfDataConfig
    from edgeskip.training.examples import Encoder

SELF_FILE = "self.jsonl"
CACHE_BYTES = 2 << 30
MOST = 96


def write_self_data(
    source: ModelSource,
    encoder: Encoder,
    generation: SelfDataConfig,
    file: Path,
    *,
    context: int,
    seed: int,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Append a record for every prompt that `file` lacks; returns how many records it then holds.

    A record has `prompt_ids` and `response_ids` (the end token included, where the model came to it) and their text.
    Prompts run in batches of similar length, in an order that does not depend on how often the run was broken off;
    `advance` is told the prompts done and in all. Those that leave no room for an answer in `context` tokens are left
    out. Raises EdgeSkipError if none is left.
    """
    prompts = _prompts(encoder, generation)
    fitting = sorted((ids, text) for ids, text in prompts if len(ids) + 8 <= context)
    fitting.sort(key=lambda prompt: len(prompt[0]))
    if not fitting:
        raise EdgeSkipError(f"no prompt leaves room for an answer in {context} tokens: raise --context")
    size = generation.batch or batch_for(source, context)
    batches = [fitting[at : at + size] for at in range(0, len(fitting), size)]
    done = _whole_records(file, fitting, encoder)
    total = len(fitting)
    if done >= total:
        return done
    from edgeskip.training.sampler import BatchSampler

    sampler = BatchSampler(source, encoder.ends, generation, seed=seed)
    written = 0
    advance(done, total)
    with file.open("a", encoding="utf-8") as out:
        for number, batch in enumerate(batches):
            written += len(batch)
            if written <= done:
                continue
            answers = sampler.answers([list(ids) for ids, _ in batch], number, context)
            lines = []
            for (ids, text), answer in zip(batch, answers, strict=True):
                record = {"prompt_ids": list(ids), "response_ids": answer, "prompt": text}
                lines.append(json.dumps(record | {"response": encoder.fast.decode(answer)}, ensure_ascii=False))
            # A batch that was half there when the run was broken off is made again whole.
            out.write("".join(line + "\n" for line in lines[max(0, done - (written - len(batch))) :]))
            out.flush()
            advance(written, total)
    return total


def batch_for(source: ModelSource, context: int) -> int:
    """Return how many answers of `context` tokens to write at once: what their keys and values leave room for in
    CACHE_BYTES.

    Two bytes each; if there is no bfloat16 it is twice that. More than MOST gain little: a batch goes on until its
    last answer ends.
    """
    config = source.decoder.config
    answer = 2 * 2 * config.num_blocks * config.num_kv_heads * config.head_dim * context
    return max(1, min(MOST, CACHE_BYTES // answer))


def _prompts(encoder: Encoder, generation: SelfDataConfig) -> list[tuple[tuple[int, ...], str]]:
    from edgeskip.calibration.corpus import SELF, corpus_named
    from edgeskip.training.examples import read_prompts

    texts = read_prompts(generation.prompts)[0] if generation.prompts else list(corpus_named([SELF]).documents)
    unique = dict.fromkeys(text.strip() for text in texts if text.strip())
    return [(encoder.prompt(text), text) for text in unique]


def _whole_records(file: Path, prompts: Sequence[tuple[tuple[int, ...], str]], encoder: Encoder) -> int:
    """Return how many records at the start of the file are those of `prompts`, in order; what follows is cut off: a
    line that a kill left unfinished, and, which a note says, all from the first that is not as it was written."""
    if not file.exists():
        return 0
    data = file.read_bytes()
    lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
    kept = 0
    for line, (ids, text) in zip(lines, prompts, strict=False):
        if not _is_record(line, ids, text, encoder):
            break
        kept += 1
    if kept < len(lines):
        note(f"{file}: record {kept + 1} is damaged: it and what follows is written again")
    whole = b"".join(lines[:kept])
    if len(whole) != len(data):
        replace_file(file, whole)
    return kept


def _is_record(line: bytes, ids: tuple[int, ...], text: str, encoder: Encoder) -> bool:
    try:
        found = parse_json(line)
        answer = found["response_ids"]
        return (
            found["prompt_ids"] == list(ids)
            and found["prompt"] == text
            and all(type(token) is int and token >= 0 for token in answer)
            and bool(found["response"] == encoder.fast.decode(answer))
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        return False
