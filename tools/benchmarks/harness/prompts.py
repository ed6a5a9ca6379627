"""Real prompts: half chat, half code from the data folder; or by category from files of records. Reads only."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.training.examples import read_records, split_reference, text_of
from harness.command import DATA

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeskip.runtime.session import Session

# Spec-Bench counts MT-bench's eight categories, ten questions each, as one of its six tasks.
MT_BENCH = frozenset(("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"))
FIELDS = ("turns", "prompt", "utterance", "question", "text")  # if none is named: the first that a record has


@dataclass(frozen=True)
class Prompt:
    name: str
    text: str
    chat: bool
    category: str = ""

    def ids(self, session: Session, new_tokens: int) -> NDArray[np.int64]:
        """Return its ids, cut to what the context holds beside `new_tokens`."""
        ids = session.encode(self.text, chat=self.chat and session.chat_template is not None)
        return ids[: session.context_length - new_tokens]


def read_prompts(count: int) -> list[Prompt]:
    """`count` prompts of the data folder, half from spec_bench.jsonl (first turns, chat template) and half from
    humaneval.jsonl (continued as they are), spread over each."""
    folder = Path(os.environ.get("EDGESKIP_DATA") or DATA)
    try:
        spec, code = (
            [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
            for name in ("spec_bench", "humaneval")
        )
    except OSError as error:
        raise EdgeSkipError(f"{error.filename} cannot be read: set EDGESKIP_DATA to the folder with prompts") from None
    half = count // 2
    return [
        *(Prompt(f"spec_bench/{r['question_id']}", r["turns"][0], True) for r in spread_out(spec, count - half)),
        *(Prompt(r["task_id"], r["prompt"], False) for r in spread_out(code, half)),
    ]


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
            field = fields[0] if fields else next((name for name in FIELDS if name in record), FIELDS[0])
            name = f"{path.stem}/{record.get('question_id', number)}"
            task = str(record.get(category) or path.stem)
            task = "mt_bench" if task in MT_BENCH else task
            found.setdefault(task, []).append(Prompt(name, text_of(record, field, where), chat, task))
    if not found:
        raise EdgeSkipError(f"{', '.join(references)}: no prompts in it")
    return [prompt for some in found.values() for prompt in spread_out(some, count)]


def spread_out(records: Sequence[Any], count: int) -> list[Any]:
    """`count` of them at even distances, the first included; all if there are fewer."""
    return [records[i * len(records) // count] for i in range(min(count, len(records)))]
