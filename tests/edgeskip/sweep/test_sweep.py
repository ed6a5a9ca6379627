"""`edgeskip sweep` over a tiny model. Oracle: counts of what was asked for, and the files read back."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from random_profiles import random_profile
from tiny_models import tiny_checkpoint

from edgeskip.cli.views.sweep import COLUMNS, points_table, write_csv, write_heat_map
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of
from edgeskip.models.source import open_model
from edgeskip.profiles.schema import read_profile
from edgeskip.sweep.run import SweepGrid, SweepLog, SweepPoint, best_of, measure


def _cell(layer, vocabulary, gamma, tokens_per_s, accepted=5):
    return SweepPoint(layer, vocabulary, gamma, 2, 100, tokens_per_s, 50.0, 10, accepted, 2)


CELLS = [_cell(4, None, 1, 40.0), _cell(4, None, 2, 75.0), _cell(8, None, 1, 60.0), _cell(8, 64, 1, 10.0, 0)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture
def profile(model, tmp_path):
    path = tmp_path / "tiny.json"
    random_profile(open_model(str(model)), path)
    return path


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"turns": [f"question {i}", "another"]}) + "\n" for i in range(6)))
    return path


def sweep(*arguments):
    command = [sys.executable, "-m", "edgeskip", "sweep", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_sweep_from_a_profile_to_the_profile(profile, prompts, tmp_path):
    options = ["--profile", profile, "--prompts", prompts, "-o", tmp_path / "out", "--exit-layers", "1,3"]
    options += ["--num-speculations", "1,2", "--draft-vocab", "all", "--limit", 2, "--max-tokens", 8, "--threads", 1]
    answer = sweep(*options, "--field", "turns", "--write")
    assert answer.returncode == 0, answer.stderr
    cells = list(csv.DictReader((tmp_path / "out" / "sweep.csv").open()))
    assert [(c["exit_layer"], c["num_speculations"]) for c in cells] == [("1", "1"), ("1", "2"), ("3", "1"), ("3", "2")]
    assert {c["prompts"] for c in cells} == {"2"}
    assert all(c["identical"] == "2" for c in cells)  # tiny fp32: no near ties
    assert (tmp_path / "out" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    best = max(cells, key=lambda cell: float(cell["speedup"]))
    record = read_profile(profile).speculation
    assert (record.exit_layer, record.num_speculations) == (int(best["exit_layer"]), int(best["num_speculations"]))
    assert record.speedup == pytest.approx(float(best["speedup"]))
    assert (record.target, record.precision, record.draft_vocab) == ("onnx", "fp32", None)

    # Again: nothing is measured anew, so the same figures come out.
    before = (tmp_path / "out" / "sweep.csv").read_text()
    assert sweep(*options, "--field", "turns").returncode == 0
    assert (tmp_path / "out" / "sweep.csv").read_text() == before
    other = sweep(*options, "--field", "turns", "--raw")
    assert (other.returncode, "sweep with another --raw" in other.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no calibrated exits"),
        (["--exit-layers", "9" * 5000], "is not a list of whole numbers"),
        (["--exit-layers", "x"], "--exit-layers x is not a list of whole numbers"),
        (["--exit-layers", "9"], "--exit-layers 9 is not possible"),
        (["--exit-layers", "1", "--num-speculations", "0"], "--num-speculations 0 is not a list of whole numbers"),
        (["--exit-layers", "1", "--draft-vocab", "many"], "--draft-vocab many is not a list of whole numbers"),
        (["--exit-layers", "1", "--target", "onnx,gguf"], "--target"),
        (["--exit-layers", "1", "--limit", "0"], "--limit must be at least 1"),
        (["--exit-layers", "1", "--num-speculations", "2,17"], "--num-speculations must be 1 … 16 or auto, not 17"),
        (["--exit-layers", "1,9", "--draft-vocab", "all"], "--exit-layers 9 is not possible"),
        (["--exit-layers", "1", "--draft-vocab", "all,999999"], "--draft-vocab 999999 is not possible"),
        (["--exit-layers", "1", "--draft-vocab", "all,8"], "--draft-vocab needs the corpus' token counts"),
    ],
)
def test_what_does_not_fit_is_one_line(profile, prompts, tmp_path, options, message):
    answer = sweep("--profile", profile, "--prompts", prompts, "-o", tmp_path / "out", "--field", "turns", *options)
    assert (answer.returncode, answer.stderr.count("\n")) == (2, 1)
    assert message in answer.stderr
    assert read_profile(profile).speculation is None
    assert not (tmp_path / "out").exists()  # refused before anything is exported or measured


def test_prompts_that_are_missing(profile, tmp_path):
    answer = sweep("--profile", profile, "--prompts", tmp_path / "no.txt", "-o", tmp_path / "out", "--exit-layers", 1)
    assert (answer.returncode, answer.stderr.count("\n"), "--corpus" in answer.stderr) == (2, 1, False)


def test_prompts_that_end_at_once_are_one_line():
    class Silent:
        def generate(self, prompt, **options):
            stats = SimpleNamespace(decode_s=1e-4, speculation=None)
            return SimpleNamespace(tokens=(), finish_reason="eos", stats=stats)

    with pytest.raises(EdgeSkipError, match="no prompt gave more than one token"):
        measure(Silent(), 1, None, (1, 2), ["a", "b"], max_tokens=8)


@pytest.mark.parametrize(("tokens_per_s", "options", "written"), [
    (40.0, [], False), (50.2, [], False), (75.0, [], True), (40.0, ["--write"], True), (75.0, ["--no-write"], False),
])  # fmt: skip
def test_only_what_is_faster_than_plain_is_written(profile, prompts, tmp_path, cli, tokens_per_s, options, written):
    """Oracle: the figures, put where a sweep keeps them; 50.2 over 50 prints as 1.00×."""
    arguments = ["sweep", "--profile", profile, "--prompts", prompts, "-o", tmp_path / "out", "--exit-layers", 1]
    arguments += ["--num-speculations", 1, "--draft-vocab", "all", "--field", "turns", "--limit", 2, *options]
    read = read_profile(profile)
    settings = {
        "model": read.model.fingerprint, "profile": read.vectors.sha256, "target": "onnx", "precision": "fp32",
        "prompts": sha256_of(prompts), "limit": 2, "max_tokens": 64, "raw": False, "threads": None, "provider": "cpu",
        "num_speculations": [1],
    }  # fmt: skip
    log = SweepLog(tmp_path / "out" / "sweep.json", settings, overwrite=False)
    log.add([_cell(1, None, 1, tokens_per_s)])
    answer = cli(*arguments)
    assert answer.code == 0, answer.err
    assert (read_profile(profile).speculation is not None) is written
    if not written and not options:
        assert "no setting is faster than plain decoding" in answer.out
        assert "--write" in answer.out


def test_the_best_is_the_fastest_over_plain():
    assert best_of(CELLS) is CELLS[1]
    assert (CELLS[1].speedup, CELLS[1].acceptance, CELLS[3].acceptance) == (1.5, 0.5, 0.0)


def test_a_log_goes_on_where_it_was(tmp_path):
    grid = SweepGrid((4, 8), (None, 64), (1, 2))
    log = SweepLog(tmp_path / "sweep.json", {"gammas": (1, 2)}, overwrite=False)
    assert list(log.missing(grid)) == [(4, None), (8, None), (4, 64), (8, 64)]
    log.add(CELLS[:2])
    log.add(CELLS[2:3])
    again = SweepLog(tmp_path / "sweep.json", {"gammas": (1, 2)}, overwrite=False)
    assert again.cells == CELLS[:3]
    assert list(again.missing(grid)) == [(4, 64), (8, 64)]
    assert not SweepLog(tmp_path / "sweep.json", {"gammas": (1, 2)}, overwrite=True).cells
    with pytest.raises(EdgeSkipError, match="sweep with another --gammas"):
        SweepLog(tmp_path / "sweep.json", {"gammas": (1, 4)}, overwrite=False)
    (tmp_path / "sweep.json").write_text("[]")
    with pytest.raises(EdgeSkipError, match="file of a sweep"):
        SweepLog(tmp_path / "sweep.json", {"gammas": (1, 2)}, overwrite=False)


def test_table_csv_and_heat_map(tmp_path):
    from rich.console import Console

    console = Console(width=100, record=True, file=(tmp_path / "table.txt").open("w"))
    console.print(points_table(CELLS))
    text = console.export_text()
    for words in ("1.50× (50%)", "0.20× (0%)", "γ = 2", "all"):
        assert words in text
    write_csv(CELLS, tmp_path / "sweep.csv")
    rows = list(csv.reader((tmp_path / "sweep.csv").open()))
    assert tuple(rows[0]) == COLUMNS
    assert rows[4][:3] == ["8", "64", "1"]
    write_heat_map(CELLS, tmp_path / "sweep.png", r"a $\frac$ name")  # text, no mathematics
    assert (tmp_path / "sweep.png").stat().st_size > 5000
