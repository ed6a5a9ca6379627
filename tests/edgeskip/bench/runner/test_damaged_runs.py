"""Runs with numbers that nothing measured. Oracle: what is within the bounds gives finite figures, what is not is
refused by the name of its field; ratios by hand."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from made_runs import made_answer, made_cell, made_device, made_run, made_sample, made_target, write_run
from pydantic import ValidationError

from edgeskip.bench.analysis.compare import compare_runs
from edgeskip.bench.analysis.rows import rows_of
from edgeskip.bench.analysis.statistics import paired_ratio, unpaired_ratio
from edgeskip.bench.analysis.table import as_csv, as_markdown, warnings_of
from edgeskip.bench.report.merged_runs import merge_runs
from edgeskip.bench.report.page import sections_of
from edgeskip.bench.runner.run_file import MAX_NAMES, BenchRun, read_run
from edgeskip.bench.schema import EnergyUse, RoundResult
from edgeskip.core.errors import EdgeSkipError

# Of times in seconds: the ends of what is taken, and what there is between.
TIMES = [1e-9, 1e8, 1.0]


def figures(run: BenchRun) -> list[float]:
    """Every number that `bench`, `compare_runs` and `report` show of a run."""
    rows = rows_of(run)
    as_markdown(run, rows)
    as_csv(run, rows)
    warnings_of(run)
    sections_of(merge_runs([(Path("a.jsonl"), run)]))
    compared = compare_runs(run, run)
    ratios = [row.ratio for row in rows if row.ratio] + [change.ratio for change in compared.changes]
    bounds = [bound for ratio in ratios for bound in (ratio.value, ratio.low, ratio.high) if bound is not None]
    return [*bounds, *(value for row in rows for value in (row.mean, row.sd, row.median, row.roofline or 0.0))]


def extreme_run(first: float, second: float) -> BenchRun:
    """Two targets, three rounds each, whose times jump between the two."""
    lines: list[Any] = [made_target("dense"), made_target("skip8"), made_device()]
    for number in range(3):
        for name in ("dense", "skip8"):
            at = first if (number + (name == "dense")) % 2 else second
            answer = made_answer([at, at], ttft=at, prepare_s=at, prefill_s=at)
            cell = made_cell(name)
            energy = EnergyUse(joules=at, source="x")
            lines.append(made_sample(cell, number, pp=at, tg=at, answers=[answer], energy=energy))
    return made_run(*lines)


@pytest.mark.parametrize("first", TIMES)
@pytest.mark.parametrize("second", TIMES)
def test_times_at_the_ends_of_what_is_taken(first: float, second: float) -> None:
    found = figures(extreme_run(first, second))
    assert found
    assert all(map(math.isfinite, found))


def test_times_of_zero_have_no_ratio() -> None:
    run = extreme_run(1.0, 0.0)
    assert all(map(math.isfinite, figures(run)))


REFUSED = [5e-324, 1e-300, 9.9e-10, 1.1e8, 1e308, -1e-9, math.inf, math.nan]


@pytest.mark.parametrize("seconds", REFUSED)
def test_times_that_nothing_measured_are_refused(seconds: float, tmp_path: Path) -> None:
    """When they come (from a browser, from a board), so that no log is spoilt; and in a log that is."""
    good = json.loads(made_sample(made_cell(), 0, pp=1.0).model_dump_json())
    good["tests"][0]["seconds"] = seconds
    with pytest.raises(ValidationError, match=r"tests\.0\.seconds"):
        RoundResult.model_validate(good)
    path = write_run(made_run(made_target(), made_device()), tmp_path / "a.jsonl")
    with path.open("a") as file:
        file.write(json.dumps(good) + "\n")
    with pytest.raises(EdgeSkipError, match="a benchmark run"):
        read_run(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("round", 10**12), ("round", -1), ("peak_rss_bytes", 10**30), ("peak_rss_bytes", -1),
        ("ran.threads", -1), ("ran.threads", 10**30), ("ran.nodes", {"cpu": -5}), ("ran.nodes", {"cpu": 10**30}),
        ("energy", {"joules": 1e300, "source": "x"}), ("conditions", {"pulse": [1e300]}),
        ("conditions", {"temperature_c": [-1e300]}), ("cell.threads", 10**30), ("cell.threads", 0),
        ("cell.target", "x" * 5000), ("tests", [{"test": "pp", "tokens": 0, "depth": 0, "seconds": 1.0}]),
    ],
)  # fmt: skip
def test_other_numbers_out_of_bounds_are_refused_by_name(field: str, value: object) -> None:
    record = json.loads(made_sample(made_cell(), 0, pp=1.0).model_dump_json())
    *parents, last = field.split(".")
    place = record
    for parent in parents:
        place = place[parent]
    place[last] = value
    with pytest.raises(ValidationError, match=field.replace(".", r"\.")):
        RoundResult.model_validate(record)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([1e-300, 1e300], [1e300, 1e-300]), ([5e-324] * 2, [1e308] * 2), ([1.0, 1.0 + 1e-16], [1.0, 1.0 + 2e-16]),
        ([1e308, 5e-324, 1.0], [1.0, 1.0, 1.0]),
    ],
)  # fmt: skip
def test_ratios_stay_numbers(ours: list[float], theirs: list[float]) -> None:
    for ratio in (paired_ratio(ours, theirs), unpaired_ratio(ours, theirs)):
        assert ratio.low is not None
        assert ratio.high is not None
        assert 0 < ratio.low <= ratio.value <= ratio.high < math.inf


def test_welchs_degrees_of_freedom_are_as_before() -> None:
    """By hand: variances 7/900 and 0.04 of the means' logarithms, Welch's formula, t by table at 1 and 2 degrees."""
    a, b = [0.0, 0.1, 0.3], [0.0, 0.4]
    ratio = unpaired_ratio([math.exp(x) for x in a], [math.exp(x) for x in b])
    va, vb = 7 / 900, 0.04
    freedom = (va + vb) ** 2 / (va**2 / 2 + vb**2 / 1)
    t = 12.706 + (freedom - 1) * (4.303 - 12.706)
    assert ratio.value == pytest.approx(math.exp(0.4 / 3 - 0.2))
    assert ratio.high == pytest.approx(math.exp(0.4 / 3 - 0.2 + t * math.sqrt(va + vb)), rel=1e-6)


def test_duplicates_take_no_long_time() -> None:
    """A sample a thousand times over, and as many devices of one name as a file may hold: quadratic was minutes."""
    devices = [made_device(f"d{n}", facts={"n": n}) for n in range(MAX_NAMES)]
    samples = [made_sample(made_cell(device=f"d{n}"), 0, pp=1.0) for n in range(MAX_NAMES)]
    run = made_run(made_target(), *devices, *samples, *([samples[0]] * 1000))
    started = time.process_time()
    assert len(merge_runs([(Path("a.jsonl"), run)]).entries) == MAX_NAMES
    assert compare_runs(run, run).changes
    assert time.process_time() - started < 20


def test_a_file_that_names_too_much_is_refused(tmp_path: Path) -> None:
    run = made_run(*(made_device(f"d{n}") for n in range(MAX_NAMES + 1)))
    path = tmp_path / "a.jsonl"
    path.write_text("".join(line.model_dump_json() + "\n" for line in run.lines))
    with pytest.raises(EdgeSkipError, match="names more than 1,000 targets or devices"):
        read_run(path)
