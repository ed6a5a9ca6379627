"""exit_accuracy.py. Oracles: the runtime's own generations, `edgeskip eval`'s scores, an uninterrupted run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from drafting_artifacts import EXIT_LAYER
from exit_accuracy import exit_accuracy

import edgeskip
from edgeskip.core.errors import EdgeSkipError

TOKENS = 6


@pytest.fixture
def data(tiny_early_exit: Path, tmp_path: Path) -> Path:
    """Three utterances; the second's parse is what the whole model writes, with more white space."""
    with edgeskip.load(tiny_early_exit, threads=1) as session:
        written = session.generate("play fox", max_tokens=TOKENS, strategy="plain").text
    rows = [("wake me", "[IN:X ]"), ("play fox", "  ".join(["", *written.split(), ""])), ('stop "it', "[IN:Y ]")]
    lines = "".join(f"x\t{said}\t{meant}\n" for said, meant in rows)
    (tmp_path / "topv2_en_validation.tsv").write_text("domain\tutterance\tsemantic_parse\n" + lines)
    return tmp_path


def run(artifact: Path, data: Path, limit: int = 3, **options: Any) -> dict[str, Any]:
    target = data / "out.json"
    everything: dict[str, Any] = {"tokens": TOKENS, "threads": 1, "json_file": target, **options}
    exit_accuracy([artifact], data=data, limit=limit, **everything)
    (table,) = json.loads(target.read_text())["tables"]
    return {row[1]: dict(zip(table["columns"], row, strict=True)) for row in table["rows"]}


def test_what_the_runtime_writes(tiny_early_exit: Path, data: Path) -> None:
    output = data / "records"
    rows = run(tiny_early_exit, data, output=output)
    exit_way = f"draft-only exit {EXIT_LAYER}"
    assert list(rows) == ["plain", "speculative", exit_way]
    assert (rows["plain"]["label"], rows["speculative"]["label"]) == ("dense", "verified")
    assert rows[exit_way]["label"] == "draft-only"
    assert rows["plain"]["score"].startswith("33.3")
    assert (rows["plain"]["identical to plain"], rows["speculative"]["identical to plain"]) == ("", "100.0%")
    texts = {}
    for file in output.iterdir():
        lines = [json.loads(line) for line in file.read_text().splitlines()[1:]]
        texts[file.stem.removeprefix(f"topv2-{tiny_early_exit.name}-")] = {
            one["id"]: one["prediction"] for one in lines
        }
    with edgeskip.load(tiny_early_exit, threads=1) as session:
        for strategy, way in (("plain", "plain"), ("draft-only", exit_way.replace(" ", "-"))):
            direct = session.generate("play fox", max_tokens=TOKENS, strategy=strategy)  # type: ignore[arg-type]
            assert texts[way]["1"] == direct.text
    same = [texts["plain"][id_] == text for id_, text in texts[exit_way.replace(" ", "-")].items()]
    assert rows[exit_way]["identical to plain"] == f"{sum(same) / 3:.1%}"


def test_goes_on_where_it_was(tiny_early_exit: Path, data: Path) -> None:
    output = data / "records"
    run(tiny_early_exit, data, 1, output=output)
    before = {file.name: file.read_bytes() for file in output.iterdir()}
    rows = run(tiny_early_exit, data, 3, output=output)
    assert rows["plain"]["samples"] == "3"
    for file in output.iterdir():
        assert file.read_bytes().startswith(before[file.name])


def test_refuses(tiny_early_exit: Path, data: Path) -> None:
    with pytest.raises(EdgeSkipError, match="--strategies luck: choose from"):
        run(tiny_early_exit, data, strategies="luck")
    with pytest.raises(EdgeSkipError, match="9"):
        run(tiny_early_exit, data, strategies="draft-only", exit_layers="9")
