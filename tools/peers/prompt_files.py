"""Prompts by category from files of records, as `edgeskip train --data` names them. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from speculation_equality import Prompt, spread

from edgeskip.core.errors import EdgeSkipError
from edgeskip.training.examples import read_records, split_reference, text_of

# Spec-Bench counts MT-bench's eight categories, ten questions each, as one of its six tasks.
MT_BENCH = frozenset(("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"))
FIELDS = ("turns", "prompt", "utterance", "question", "text")  # where none is named: the first that a record has


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
