"""The toy's training. Oracles: hand calculation, and in the slow test the targets themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from harness.command import DATA
from toy_training import HELD_OUT, WINDOW, Result, collate, table_of, targets_of, windows_of

from edgeskip.core.errors import EdgeSkipError


def test_windows_of_a_text(tmp_path: Path) -> None:
    """Bytes are the tokens; the end is held out and the rest that fills no window is left out."""
    data = bytes(n % 251 for n in range(300 * WINDOW + 5))
    (tmp_path / "t.txt").write_bytes(data)
    learned, held_out = windows_of(tmp_path / "t.txt")
    assert (len(learned), len(held_out)) == (300 - HELD_OUT, HELD_OUT)
    assert b"".join(bytes(example.ids) for example in learned + held_out) == data[: 300 * WINDOW]
    batch = collate(learned[:2])
    assert batch["input_ids"].tolist() == [list(example.ids) for example in learned[:2]]
    assert batch["labels"][:, 0].tolist() == [-100, -100]
    assert batch["labels"][:, 1:].equal(batch["input_ids"][:, 1:])


def test_texts_that_do_not_do(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"x" * 1000)
    with pytest.raises(EdgeSkipError, match="too short"):
        windows_of(tmp_path / "t.txt")
    with pytest.raises(EdgeSkipError, match="cannot read"):
        windows_of(tmp_path / "missing.txt")


def test_the_table_and_the_targets() -> None:
    without, recipe = Result("without", 40.0, 5.0, 61.4), Result("with", 8.0, 5.2, 70.6)
    assert table_of(without, recipe).rows == [["without", "40.00", "5.00", "61"], ["with", "8.00", "5.20", "71"]]
    assert [target.measured.median for target in targets_of(without, recipe)] == pytest.approx([0.2, 1.04])
    for one, met in (
        (recipe, [True, True]),
        (Result("", 8.0, 5.3, 0), [True, False]),
        (Result("", 21.0, 5, 0), [False, True]),
    ):
        assert [target.met for target in targets_of(without, one)] == met


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="needs shared/data")
def test_the_recipe_teaches_the_exit(tmp_path: Path) -> None:
    """A smaller toy, fewer steps: its exit gains and its last block loses little. It is too small for the tool's own
    bound on the exit, so exit code 1 is as good here (one run, seed 0: 0.81 and 1.01 times the perplexity without)."""
    tool = Path(__file__).parents[3] / "tools" / "benchmarks" / "toy_training.py"
    command = [sys.executable, str(tool), "--hidden", "64", "--steps", "200"]
    done = subprocess.run([*command, "--json", str(tmp_path / "f.json")], capture_output=True, text=True, timeout=500)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    without, recipe = json.loads((tmp_path / "f.json").read_text())["data"]
    assert recipe["exit_perplexity"] < 0.9 * without["exit_perplexity"]
    assert recipe["last_perplexity"] < 1.05 * without["last_perplexity"]
