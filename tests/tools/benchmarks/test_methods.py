"""What `tools/benchmarks/methods.py` measures and how it compares at one speed. Oracle: hand calculations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness.methods_report import perplexity_at, plot, tables_of
from methods import Bench, Setting, methods, quartiles, settings_of

from edgeskip.core.errors import EdgeSkipError


def row(method: str, wanted: str, perplexity: float, decode: float, **tasks: float) -> dict[str, Any]:
    spread = {"median": decode, "low": decode - 0.01, "high": decode + 0.02}
    found = {name: {"value": value, "interval": (value - 1, value + 1)} for name, value in tasks.items()}
    return {
        "method": method, "wanted": wanted, "skip": ["attn.1"] * int(float(wanted)), "prefill": spread,
        "decode": spread, "perplexity": {"value": perplexity}, "tasks": found,
    }  # fmt: skip


RESULTS = [
    row("dense", "0", 20.0, 1.0),
    row("adaskip", "4", 40.0, 1.1, trec=30.0),
    row("adaskip", "8", 80.0, 1.2),
    row("unified", "8", 60.0, 1.1),
    row("budget", "4", 25.0, 1.05),
    row("budget", "1.20", 30.0, 1.25),
]


def test_between_two_plans_log_perplexity_is_linear() -> None:
    assert perplexity_at(RESULTS, "adaskip", 1.1) == pytest.approx(40)
    assert perplexity_at(RESULTS, "adaskip", 1.15) == pytest.approx(math.sqrt(40 * 80))
    assert perplexity_at(RESULTS, "adaskip", 1.05) == pytest.approx(math.sqrt(20 * 40))  # dense is a plan too
    assert perplexity_at(RESULTS, "adaskip", 1.3) is None


def test_a_plan_that_is_slower_and_worse_counts_for_nothing() -> None:
    worse = row("adaskip", "6", 500.0, 1.15)
    assert perplexity_at([*RESULTS, worse], "adaskip", 1.15) == perplexity_at(RESULTS, "adaskip", 1.15)


def test_tables() -> None:
    tables = tables_of(RESULTS, ["4", "8"], [1.1, 1.5], ("budget", "budget-affine"))
    text = "\n".join(table.markdown() for table in tables)
    assert "| 4 | AdaSkip (scale) | 40.00 | 1.10× | 1.10× [1.09–1.12] | 30.0 [29.0–31.0] |" in text
    mine = perplexity_at(RESULTS, "budget", 1.1)
    assert mine is not None
    assert f"| 1.10× | {mine:.1f} | 40.0 | 60.0 | {mine / 40:.2f} |" in text
    assert "| 1.50× | – | – | – |  |" in text


def test_what_is_measured() -> None:
    settings = settings_of(["adaskip", "budget", "budget-affine"], ["4"], ["20"], ["1.1"])
    assert [setting.name for setting in settings] == [
        *("dense-0", "adaskip-4", "budget-4", "budget-affine-4", "budget-1.10", "adaskip-20"),
    ]
    assert Setting("budget", "1.10").by_speed
    assert not Setting("budget", "4").by_speed


def test_the_figure(tmp_path: Path) -> None:
    plot(RESULTS, tmp_path / "frontier.png", "tiny")
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(EdgeSkipError, match="a figure is one of"):
        plot(RESULTS, tmp_path / "frontier.txt", "tiny")


def test_speedups_pair_rounds() -> None:
    """Ratios 3, 1, 2, 5, 4: numpy's linear quantiles."""
    assert quartiles([3.0, 2.0, 4.0, 15.0, 4.0], [1.0, 2.0, 2.0, 3.0, 1.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}


class Counting(Bench):
    """Measures nothing, and says what it was asked to."""

    made: Any = None

    def __init__(self, folder: Path) -> None:
        super().__init__("tiny", "fp32", folder, folder, 1, 1)
        self.asked: list[str] = []

    def _made(self, method: str) -> dict[str, Any]:
        return {"threads": self.made, "front": method == "budget"}

    def _artifact(self, setting: Setting) -> Path:
        return self._dense

    def _facts(self, artifact: Path) -> dict[str, Any]:
        return {}

    def _speed(self, setting: Setting, artifact: Path) -> dict[str, Any]:
        self.asked.append(f"{setting.name} speed")
        return {"decode": 1.0}

    def _summary(self, artifact: Path, task: str, limit: int | None) -> Any:
        self.asked.append(f"{task} {limit}")
        return Score(float(limit or 0))


@dataclass(frozen=True)
class Score:
    value: float


def test_measures_what_is_missing_and_reports_no_other(tmp_path: Path) -> None:
    setting = Setting("adaskip", "4")
    bench = Counting(tmp_path)
    for _ in range(2):
        bench.measure(setting, ["trec"], 5)
    assert bench.asked == ["adaskip-4 speed", "perplexity None", "trec 5"]
    bench.measure(setting, ["trec"], 6)
    assert bench.asked[3:] == ["trec 6"]
    assert [row["tasks"]["trec"]["value"] for row in bench.results(6)] == [6.0]
    assert bench.results(5)[0]["tasks"] == {}
    bench.made = 2
    assert bench.results(6) == []
    bench.measure(setting, ["trec"], 6)
    assert bench.asked[4:] == ["adaskip-4 speed", "perplexity None", "trec 6"]
    assert len(bench.results(6)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speedups": "fast"}, "--speedups 'fast': give numbers"),
        ({"rows": "0,4"}, "--rows 0,4: give numbers of at least 1"),
        ({"tasks": "chess"}, "chess"),
        ({"methods": "luck"}, "--methods luck: choose from"),
        ({"figure": Path("frontier.txt")}, "a figure is one of"),
    ],
)
def test_refuses_before_it_measures(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.model_folder", lambda model, work: work)
    everything: dict[str, Any] = {
        **{"rows": "4", "speedups": "1.1", "more_rows": "", "methods": "adaskip", "tasks": "", "work": tmp_path},
        **options,
    }
    with pytest.raises(EdgeSkipError, match=message):
        methods(**everything)
    assert list(tmp_path.iterdir()) == []
