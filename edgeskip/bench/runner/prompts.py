"""The real prompts that answers are timed on: a few of different kinds that ship, or the user's file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeskip.bench.runner.request import BenchPrompt
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.json_file import parse_json
from edgeskip.core.text_files import read_text_file

SHIPPED = Path(__file__).with_name("prompts.jsonl")
"""Written for this purpose: a question, code, a summary of a longer text, a rewriting, arithmetic, a list."""


def read_prompts(path: Path | None, count: int | None) -> list[BenchPrompt]:
    """Read the first `count` prompts (None = all) of a file; None = the file that ships.

    JSONL, each line with `prompt` or, as Spec-Bench has them, `turns` (the first is taken), and perhaps `name`; any
    other file has a prompt on every line. Raises EdgeSkipError if there are not as many, or a line is not a prompt.
    """
    file = path or SHIPPED
    lines = [line for line in read_text_file(file).split("\n") if line.strip()]
    if not lines:
        raise EdgeSkipError(f"{file} has no prompts; write one on every line")
    if count is not None and count > len(lines):
        raise EdgeSkipError(f"{file} has {len(lines)} prompts, not {count}; lower --num-prompts or give another file")
    chosen = lines[:count]
    if file.suffix.lower() not in (".jsonl", ".json"):
        return [BenchPrompt(name=f"{file.stem}-{number}", text=line) for number, line in enumerate(chosen, 1)]
    return _distinct([_prompt(file, number, line) for number, line in enumerate(chosen, 1)])


def _prompt(file: Path, number: int, line: str) -> BenchPrompt:
    try:
        record: Any = parse_json(line, finite=False)
        text = record["prompt"] if "prompt" in record else record["turns"][0]
        name = str(record.get("name") or record.get("question_id") or f"{file.stem}-{number}")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise EdgeSkipError(
            f'{file}, line {number} is not a prompt; write {{"prompt": "…"}} or {{"turns": ["…"]}} on every line'
        ) from None
    if not isinstance(text, str) or not text:
        raise EdgeSkipError(f"{file}, line {number}: the prompt is not a string; write it between quotation marks")
    return BenchPrompt(name=name[:100], text=text)


def _distinct(prompts: Sequence[BenchPrompt]) -> list[BenchPrompt]:
    names = [prompt.name for prompt in prompts]
    return [
        prompt if names.count(prompt.name) == 1 else prompt.model_copy(update={"name": f"{prompt.name}-{number}"})
        for number, prompt in enumerate(prompts, 1)
    ]
