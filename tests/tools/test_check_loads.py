"""What counts as a difference between runtimes. Oracle: runtimes that say what the test tells them to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import check_loads
import pytest
import typer
from harness.runtimes import Contestant

from edgeskip.artifacts.manifest import read_manifest

OURS, OTHER = (1, 2, 3, 4), (1, 2, 9, 4)


def compared(monkeypatch: pytest.MonkeyPatch, folder: Path, told: dict[str, tuple[int, ...]]) -> None:
    def generated(contestant: Contestant, ids: list[int], new_tokens: int, *rest: Any) -> tuple[int, ...]:
        assert new_tokens == 4
        return told.get(contestant.worker, OURS)

    monkeypatch.setattr(check_loads, "generated", generated)
    python = folder / "python"
    check_loads.check_loads(
        [folder], prompt_tokens=4, new_tokens=4, threads=1, work=folder, genai_python=python, optimum_python=python
    )


def test_the_same_tokens(
    monkeypatch: pytest.MonkeyPatch, tiny_early_exit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compared(monkeypatch, tiny_early_exit, {})
    first, second = capsys.readouterr().out.splitlines()
    assert first == "early-exit (dense, early-exit draft) in onnxruntime-genai: 4 of 4 tokens the same"
    assert second == "early-exit (dense) in optimum-onnx: 4 of 4 tokens the same"


@pytest.mark.parametrize("worker", ["genai_worker.py", "optimum_worker.py"])
def test_other_tokens(monkeypatch: pytest.MonkeyPatch, tiny_early_exit: Path, worker: str) -> None:
    with pytest.raises(typer.Exit):
        compared(monkeypatch, tiny_early_exit, {worker: OTHER})


@pytest.mark.parametrize("drafting", [True, False])
def test_a_batch_in_int4_rounds_otherwise(
    monkeypatch: pytest.MonkeyPatch, tiny_early_exit: Path, capsys: pytest.CaptureFixture[str], drafting: bool
) -> None:
    """Told, and no failure where the other runtime speculates."""
    manifest = read_manifest(tiny_early_exit)
    graph = manifest.graph.model_copy(update={"precision": "int4"})
    update = {"graph": graph} if drafting else {"graph": graph, "draft": None}
    found = manifest.model_copy(update=update)
    monkeypatch.setattr(check_loads, "read_manifest", lambda _: found)
    if drafting:
        compared(monkeypatch, tiny_early_exit, {"genai_worker.py": OTHER})
    else:
        with pytest.raises(typer.Exit):
            compared(monkeypatch, tiny_early_exit, {"genai_worker.py": OTHER})
    assert "2 of 4 tokens the same" in capsys.readouterr().out
