"""Prompts by category from files of records, as `edgeskip train --data` names them. Reads only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.training.examples import read_records, split_reference, text_of

# Spec-Bench counts MT-bench's eight categories, ten questions each, as one of its six tasks.
MT_BENCH = frozenset(("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"))
FIELDS = ("turns", "prompt", "utterance", "question", "text")  # where none is named: the first that a record has


@dataclass(frozen=True)
class Prompt:
    name: str
    text: str
    chat: bool
    category: str = ""


def prompts_of(folder: Path, count: int) -> list[Prompt]:
    """`count` prompts, half from each file, spread over it."""
    spec = [json.loads(line) for line in (folder / "spec_bench.jsonl").read_text("utf-8").splitlines()]
    code = [json.loads(line) for line in (folder / "humaneval.jsonl").read_text("utf-8").splitlines()]
    half = count // 2
    return [
        *(Prompt(f"spec_bench/{r['question_id']}", r["turns"][0], True) for r in spread(spec, count - half)),
        *(Prompt(r["task_id"], r["prompt"], False) for r in spread(code, half)),
    ]


def spread(records: list[Any], count: int) -> list[Any]:
    """`count` of them at even distances, the first included; all where there are fewer."""
    return [records[i * len(records) // count] for i in range(min(count, len(records)))]


def prompts_from(
    references: Sequence[str], count: int, *, category: str = "category", chat: bool = True
) -> list[Prompt]:
    """`count` prompts of each category, spread over it, of files `FILE` or `FILE#FIELD`.

    A record's category is its field `category`, else its file's name. EdgeSkipError as `read_records` raises it, and
    for a field that is missing.
    """
    found: dict[str, list[Prompt]] = {}
    for reference in references:
        path, fields = split_reference(reference)
        if path.suffix not in (".jsonl", ".tsv", ".csv"):
            raise EdgeSkipError(f"{path}: prompts come from .jsonl, .tsv and .csv files of records")
        for number, (where, record) in enumerate(read_records(path)):
            field = fields[0] if fields else _field(record)
            name = f"{path.stem}/{record.get('question_id', number)}"
            task = str(record.get(category) or path.stem)
            task = "mt_bench" if task in MT_BENCH else task
            found.setdefault(task, []).append(Prompt(name, text_of(record, field, where), chat, task))
    if not found:
        raise EdgeSkipError(f"{', '.join(references)}: no prompts in it")
    return [prompt for some in found.values() for prompt in spread(some, count)]


def _field(record: dict[str, Any]) -> str:
    return next((name for name in FIELDS if name in record), FIELDS[0])
