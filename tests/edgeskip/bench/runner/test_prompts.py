"""Prompt files. Oracle: by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeskip.bench.runner.prompts import read_prompts
from edgeskip.core.errors import EdgeSkipError


def test_those_that_ship() -> None:
    prompts = read_prompts(None, None)
    assert [prompt.name for prompt in prompts] == ["question", "code", "summary", "rewrite", "arithmetic", "list"]
    assert read_prompts(None, 2) == prompts[:2]


def test_jsonl_of_both_kinds(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "One?", "name": "x"}\n\n{"turns": ["Two?", "And then?"], "question_id": 81}\n')
    assert [(p.name, p.text) for p in read_prompts(file, None)] == [("x", "One?"), ("81", "Two?")]


def test_lines_and_names_that_repeat(tmp_path: Path) -> None:
    text = tmp_path / "p.txt"
    text.write_text("One?\n\nTwo?\n")
    assert [(p.name, p.text) for p in read_prompts(text, None)] == [("p-1", "One?"), ("p-2", "Two?")]
    same = tmp_path / "q.jsonl"
    same.write_text('{"prompt": "One?", "name": "x"}\n{"prompt": "Two?", "name": "x"}\n')
    assert [p.name for p in read_prompts(same, None)] == ["x-1", "x-2"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.txt", b"\n \n", "has no prompts"),
        ("p.txt", b"one\n", "has 1 prompts, not 2"),
        ("p.txt", b"\xff\xfe", "not UTF-8"),
        ("p.jsonl", b"{\n{}\n", "line 1 "),
        ("p.jsonl", b'{"prompt": "a"}\n{"turns": []}\n', "line 2 "),
        ("p.jsonl", b'{"prompt": "a"}\n[]\n', "line 2 "),
        ("p.jsonl", b'{"prompt": 5}\n{"prompt": "a"}\n', "line 1: "),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EdgeSkipError, match=words):
        read_prompts(tmp_path / name, 2)
