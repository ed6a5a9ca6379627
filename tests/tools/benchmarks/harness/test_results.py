"""Medians, ratios and targets of the peer benchmark. Oracle: hand calculation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness.results import Results, Spread, Table, Target
from harness.runtimes import Run, agreement, figures_of, ratios_of


def run(prefill_s: float, *token_s: float, tokens: tuple[int, ...] = (), **more: object) -> Run:
    return Run(tokens, prefill_s, token_s, peak_rss_bytes=100, **more)  # type: ignore[arg-type]


def near(spread: Spread, median: float, low: float, high: float) -> bool:
    return (spread.median, spread.low, spread.high) == pytest.approx((median, low, high))


def test_spread_is_median_least_and_greatest() -> None:
    assert Spread.of([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0)
    assert Spread.of(iter([4.0, 2.0])) == Spread(3.0, 2.0, 4.0)


def test_figures_of_three_rounds() -> None:
    runs = [run(2.0, 0.1, 0.3), run(4.0, 0.25, 0.25), run(1.0, 0.5, 0.5)]
    figures = figures_of(runs, prompt_tokens=8)
    assert figures.prefill_tokens_per_s == Spread(4.0, 2.0, 8.0)
    assert near(figures.decode_tokens_per_s, 4.0, 2.0, 5.0)
    assert figures.python_share is None
    assert figures.others_cores is None


def test_python_share_is_what_the_runtime_did_not_take() -> None:
    runs = [run(1.0, 0.5, 0.5, notes={"runtime_s": 0.96}, others_cores=0.5), run(1.0, 1.0, 1.0, others_cores=0.1)]
    figures = figures_of(runs, prompt_tokens=1)
    assert near(figures.python_share, 0.04, 0.04, 0.04)
    assert figures.others_cores == pytest.approx(0.3)


def test_ratios_pair_rounds() -> None:
    """The machine runs at half speed in round 2: of unpaired medians nothing would show it, pairs cancel it."""
    ours = [run(1.0, 0.1, 0.1), run(2.0, 0.2, 0.2), run(1.0, 0.1, 0.1)]
    theirs = [run(3.0, 0.2, 0.2), run(6.0, 0.4, 0.4), run(3.0, 0.4, 0.2)]
    ratios = ratios_of(ours, theirs)
    assert ratios.prefill == Spread(3.0, 3.0, 3.0)
    assert near(ratios.decode, 2.0, 2.0, 3.0)


def test_ratios_need_the_same_rounds() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratios_of([run(1.0, 1.0)], [run(1.0, 1.0), run(1.0, 1.0)])


@pytest.mark.parametrize(("theirs", "same"), [([5, 6, 7], 3), ([5, 6, 8], 2), ([9, 6, 7], 0)])
def test_agreement_counts_to_the_first_difference(theirs: list[int], same: int) -> None:
    assert agreement([5, 6, 7], theirs) == same


@pytest.mark.parametrize(
    ("median", "at_least", "met"), [(1.3, True, True), (1.29, True, False), (1.3, False, True), (1.31, False, False)]
)
def test_target_is_judged_by_the_median(median: float, at_least: bool, met: bool) -> None:
    assert Target("x", 1.3, Spread(median, 0.0, 9.0), at_least).met is met


def results() -> Results:
    table = Table("Speed", ["precision", "tok/s"], [["fp32", Spread(2.0, 1.0, 4.0).text(1)], ["int4", ""]])
    targets = [
        Target("speed of fp32", 3.0, Spread(2.0, 1.0, 4.0)),
        Target("its time", 3.0, Spread(2.0, 1.0, 4.0), False),
    ]
    setting = {"prompt_tokens": 4, "rounds": 2, "names": ["a", "b"]}
    data = {"row": Run((1,), 1.0, (), 5), "file": Path("a")}
    return Results("some_script", setting, [table], targets, data, ["A note."], [None, 0.01, 0.7], {"torch": "2"})


def test_markdown_shows_the_setting_tables_bounds_and_doubts() -> None:
    setting, table, bounds, doubts, note = results().markdown().split("\n\n")
    assert setting.startswith("prompt tokens 4, rounds 2; medians [least – greatest]; ")
    assert table.splitlines()[2:] == ["| fp32 | 2.0 [1.0 – 4.0] |", "| int4 |  |"]
    assert bounds.splitlines()[2:] == [
        "| speed of fp32 | ≥ 3 | 2.000 [1.000 – 4.000] | NO |",
        "| its time | ≤ 3 | 2.000 [1.000 – 4.000] | yes |",
    ]
    assert doubts.startswith("Doubtful: other processes kept 0.70 cores busy")
    assert note == "A note."
    assert not results().met


def test_json_has_the_form_of_the_results_pages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the members that every table of docs/results/data has."""
    monkeypatch.setattr("sys.argv", ["some_script.py", "a b", "--rounds", "2"])
    results().publish(tmp_path / "out.json")
    assert capsys.readouterr().out == results().markdown() + "\n"
    found = json.loads((tmp_path / "out.json").read_text())
    (table,) = found["tables"]
    pages = Path(__file__).parents[4] / "docs" / "results" / "data"
    for page in pages.glob("*.json"):
        for committed in json.loads(page.read_text(encoding="utf-8"))["tables"]:
            assert set(committed) <= set(table)
    assert table["rows"] == [["fp32", "2.0 [1.0 – 4.0]"], ["int4", ""]]
    assert table["command"] == "python tools/benchmarks/some_script.py 'a b' --rounds 2"
    assert table["versions"] == "torch 2"
    assert len(table["date"]) == 10
    assert found["targets"][0]["met"] is False
    assert found["data"] == {"row": {"tokens": [1], "prefill_s": 1.0, "token_s": [], "peak_rss_bytes": 5,
                                     "others_cores": None, "notes": {}}, "file": "a"}  # fmt: skip


def test_a_table_of_nothing_is_left_out() -> None:
    assert Results("x", {}, [Table("Empty", ["a"], [])]).markdown().count("|") == 0
