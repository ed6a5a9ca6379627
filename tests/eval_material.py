"""What the tests of the evaluation share: data files of the real ones' format, and an artifact made by hand."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

TEXT = "Skip what it does not need, measure what that costs, and say so. " * 8
ADD = {
    "task_id": "HumanEval/0",
    "prompt": 'def add(a, b):\n    """Sum."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "\n\ndef check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, 1) == 0\n",
}


def tiny_artifact(folder: Path, *, dense: bool = False) -> Any:
    """tests/runtime's one-layer artifact (600 tokens of context, a token a byte), labelled dense or lossy-skip."""
    artifact = _tiny_graph().build_tiny_artifact(folder)
    if dense:
        manifest = json.loads((folder / "edgeskip.json").read_text())
        manifest["label"], manifest["plan"]["skip"] = "dense", []
        (folder / "edgeskip.json").write_text(json.dumps(manifest))
    return artifact


def write_lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def data_folder(folder: Path) -> Path:
    """Every task's files, with a record or a few each."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "wikitext2_test.txt").write_text(TEXT)
    rows = [f"timer\tset timer {n}\t[IN:CREATE_TIMER set {n} ]" for n in range(12)]
    (folder / "topv2_en_validation.tsv").write_text("\n".join(["domain\tutterance\tsemantic_parse", *rows]) + "\n")
    bench = {"input": "", "context": "The report says little.", "answers": ["It says little."]}
    for name in ("gov_report", "multi_news"):
        write_lines(folder / f"longbench_{name}.jsonl", bench)
    question = {"input": "Question:\nWho?\nAnswer:\n", "context": "Passage:\nx\n", "answers": ["The A", "B"]}
    write_lines(folder / "longbench_triviaqa.jsonl", question, question)
    write_lines(folder / "cnn_dailymail_val500.jsonl", {"id": "a", "article": "Long {x}.", "highlights": "Short ."})
    write_lines(folder / "humaneval.jsonl", ADD)
    train = "DESC:def What is caf\xe9 ?\nLOC:city Where is it ?\n"
    (folder / "trec_train_5500.label").write_bytes(train.encode("latin-1"))
    (folder / "trec_TREC_10.label").write_text("NUM:dist How far is it ?\nHUM:ind Who was it ?\n")
    return folder


def _tiny_graph() -> Any:
    return importlib.import_module("tiny_graph")
