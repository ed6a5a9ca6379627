"""Runs laid side by side, and names and numbers as text. Oracle: by hand, on made-up runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import made_cell, made_device, made_failure, made_run, made_sample, made_target, write_run

from edgeskip.bench.analysis.formatting import format_interval, format_mean_sd, format_number, format_percent, sanitize
from edgeskip.bench.analysis.rows import rows_of
from edgeskip.bench.analysis.statistics import Ratio
from edgeskip.bench.report.merged_runs import merge_runs, read_runs
from edgeskip.bench.runner.run_file import BenchRun
from edgeskip.core.errors import EdgeSkipError

SAMPLE = made_sample(made_cell(), 0, tg=1)


def names(*runs: tuple[str, BenchRun]) -> list[tuple[str, str, str]]:
    """(run, target, device) of each entry."""
    found = merge_runs([(Path(name), run) for name, run in runs])
    return [(entry.in_run, entry.target, entry.device) for entry in found.entries]


def test_one_run_needs_no_name() -> None:
    assert names(("a.jsonl", made_run(made_target(), made_device(), SAMPLE))) == [("", "dense", "Made CPU")]


def test_what_is_the_same_keeps_its_name() -> None:
    run = made_run(made_target(), made_device(), SAMPLE)
    later = made_device(facts={**made_device().facts, "available_memory_bytes": 5}, rooflines=[])
    other = made_run(made_target(path="elsewhere"), later, SAMPLE)
    assert names(("a.jsonl", run), ("b.jsonl", other)) == [("a", "dense", "Made CPU"), ("b", "dense", "Made CPU")]


def test_what_is_only_called_the_same_is_told_apart() -> None:
    run = made_run(made_target(), made_device(), SAMPLE)
    other = made_run(made_target(sha256="1" * 64), made_device(versions={"onnxruntime": "2"}), SAMPLE)
    assert names(("a.jsonl", run), ("b.jsonl", other)) == [
        ("a", "dense (of a)", "Made CPU (of a)"), ("b", "dense (of b)", "Made CPU (of b)"),
    ]  # fmt: skip


def test_two_devices_of_one_name_in_a_run() -> None:
    run = made_run(
        made_target(), made_device(), made_device("there"), SAMPLE, made_sample(made_cell(device="there"), 0, tg=1)
    )
    assert names(("a.jsonl", run)) == [("", "dense", "Made CPU (here)"), ("", "dense", "Made CPU (there)")]


def test_a_made_up_name_does_not_take_anothers_place() -> None:
    run = made_run(
        made_target(), made_device(), made_device("there"), made_device("x", name="Made CPU (here)"), SAMPLE,
        made_sample(made_cell(device="there"), 0, tg=1), made_sample(made_cell(device="x"), 0, tg=1),
    )  # fmt: skip
    shown = [device for _, _, device in names(("a.jsonl", run))]
    assert len(set(shown)) == 3


def test_files_of_one_name_are_told_apart() -> None:
    run = made_run(made_target(), made_device(), SAMPLE)
    assert [part.label for part in merge_runs([(Path("a.jsonl"), run), (Path("a.json"), run)]).parts] == [
        "a.jsonl",
        "a.json",
    ]
    assert [part.label for part in merge_runs([(Path("x/a.json"), run), (Path("y/a.json"), run)]).parts] == [
        "x/a.json", "y/a.json",
    ]  # fmt: skip


def test_a_file_given_twice(tmp_path: Path) -> None:
    path = write_run(made_run(made_target(), made_device(), SAMPLE), tmp_path / "a.jsonl")
    with pytest.raises(EdgeSkipError, match="is given twice"):
        read_runs([path, tmp_path / ".." / tmp_path.name / "a.jsonl"])


def test_nothing_measured() -> None:
    with pytest.raises(EdgeSkipError, match="nothing was measured"):
        merge_runs([(Path("a.jsonl"), made_run(made_target(), made_device()))])
    assert not merge_runs(
        [(Path("a.jsonl"), made_run(made_target(), made_device(), made_failure(made_cell())))]
    ).entries


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\n\tb  c", "a b c"),
        ("a\x00b\x1bc", "a\ufffdb\ufffdc"),
        ("\u202egnp.exe", "\ufffdgnp.exe"),  # turns the writing's direction
        ("\ud800x", "\ufffdx"),  # half a character
        ("日本 é 😀", "日本 é 😀"),
        ("x" * 301, "x" * 299 + "…"),
    ],
)
def test_names_from_a_file_are_one_printable_line(text: str, shown: str) -> None:
    assert sanitize(text) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (45.23, "45.2"),
        (9.996, "10.0"),
        (0.01234, "0.0123"),
        (12345.6, "12,346"),
        (0, "0"),
        (7e-15, "7e-15"),
        (1, "1.00"),
    ],
)
def test_numbers_have_three_figures(value: float, shown: str) -> None:
    assert format_number(value) == shown


@pytest.mark.parametrize(
    ("share", "shown"), [(0.1234, "+12.3 %"), (-0.005, "-0.50 %"), (0, "0 %"), (1.5, "+150 %"), (0.99949, "+99.9 %")]
)
def test_percentages(share: float, shown: str) -> None:
    assert format_percent(share, sign=True) == shown


def test_a_spread_shows_a_figure_of_the_deviation() -> None:
    def shown(*seconds: float) -> str:
        samples = [made_sample(made_cell(), n, tg=s) for n, s in enumerate(seconds)]
        row = next(row for row in rows_of(made_run(made_target(), made_device(), *samples)) if row.measure == "tg4")
        return format_mean_sd(row)

    assert shown(0.04) == "100"
    # 99.01 and 100 tokens/s: mean 99.505, sample deviation 0.990/√2 = 0.700
    assert shown(4 / 99.01, 0.04) == "99.5 ± 0.7"
    # 40 and 160: mean 100, deviation 120/√2 = 84.9
    assert shown(0.1, 0.025) == "100 ± 85"


def test_an_interval_or_why_there_is_none() -> None:
    assert format_interval(Ratio(1.2, 1.104, 1.3)) == "1.10 to 1.30"
    assert format_interval(Ratio(1.2, None, None)) == "one round, no interval"
