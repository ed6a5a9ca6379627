"""Two runs compared. Oracle: by hand, on made-up runs; exit codes through the command itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from made_runs import (
    made_answer,
    made_cell,
    made_device,
    made_failure,
    made_run,
    made_sample,
    made_target,
    write_run,
)

from edgeskip.bench.analysis.compare import compare_runs
from edgeskip.bench.runner.run_file import BenchRun
from edgeskip.bench.schema import ExecutionInfo, SystemConditions
from edgeskip.core.errors import EdgeSkipError

Cli = Any


def run_of(seconds: Sequence[float], device: dict[str, Any] | None = None, **settings: Any) -> BenchRun:
    """tg4 takes `seconds` in the rounds, a token of an answer 0.1 s, loading 0.5 s."""
    samples = [made_sample(made_cell(), n, tg=s, answers=[made_answer([0.1])]) for n, s in enumerate(seconds)]
    return made_run(made_target(), made_device(**(device or {})), *samples, **settings)


def test_ratios_say_how_good_the_second_is() -> None:
    found = {c.key.measure: c for c in compare_runs(run_of([1, 1, 1]), run_of([2, 2, 2])).changes}
    assert found["tg4"].ratio.value == pytest.approx(0.5)
    assert (found["tg4"].before, found["tg4"].after) == (4, 2)
    assert found["TPOT"].ratio.value == pytest.approx(1)
    assert [m for m, c in found.items() if c.is_speed] == ["tg4", "TTFT", "TPOT", "ITL p50"]


@pytest.mark.parametrize(
    ("after", "bound", "regressions"),
    [
        ([1.1, 1.1, 1.1], 0.05, 1),
        ([1.04, 1.04, 1.04], 0.05, 0),  # within the bound
        ([1.1, 1.1, 1.1], 0.2, 0),
        ([0.5, 0.5, 0.5], 0.05, 0),  # faster
        ([0.8, 1.2, 1.6], 0.05, 0),  # slower by 15 %, and by chance for all one knows
        ([1.1], 0.05, 1),  # one round: the bound alone decides
    ],
)
def test_a_regression_is_beyond_the_bound_and_beyond_chance(after: list[float], bound: float, regressions: int) -> None:
    before = run_of([1] * len(after))
    assert len(compare_runs(before, run_of(after)).regressions(bound)) == regressions


def test_only_what_was_asked_for() -> None:
    found = compare_runs(run_of([1, 1]), run_of([2, 2]), measures=["TPOT"])
    assert [c.key.measure for c in found.changes] == ["TPOT"]


def test_rows_of_one_run_only_are_named() -> None:
    more = run_of([1, 1])
    more.add(made_target("skip8"))
    more.add(made_sample(made_cell("skip8"), 0, tg=1))
    found = compare_runs(run_of([1, 1]), more)
    assert [str(key) for key in found.only_after] == [
        "skip8 tg4 (cpu, 2 threads, plain, Made CPU)", "skip8 load (cpu, 2 threads, plain, Made CPU)",
    ]  # fmt: skip
    assert found.only_before == ()


def test_another_machine_is_no_regression() -> None:
    other = run_of([9, 9], {"name": "Other CPU"})
    with pytest.raises(EdgeSkipError, match=r"different devices \(Made CPU; Other CPU\).*--other-device"):
        compare_runs(run_of([1, 1]), other)
    found = compare_runs(run_of([1, 1]), other, other_device=True)
    assert found.changes[0].ratio.value == pytest.approx(1 / 9)


def test_what_else_is_not_the_same_is_said() -> None:
    after = run_of([1, 1], {"versions": {"onnxruntime": "1.32.0"}}, max_tokens=64)
    after.add(made_target(sha256="1" * 64))
    assert compare_runs(run_of([1, 1]), after).differences == (
        "setting max_tokens: 32 in A, 64 in B",
        "prompts or the answers' length, so that TTFT, TPOT and ITL are not judged",
        "dense is another artifact in B",
        "Made CPU: onnxruntime 1.31.1 in A, 1.32.0 in B",
    )


def test_answers_of_another_length_are_not_judged() -> None:
    found = compare_runs(run_of([1, 1]), run_of([1, 1], max_tokens=64))
    assert [c.key.measure for c in found.changes if c.is_speed] == ["tg4"]


def test_another_share_of_the_nodes_is_compared() -> None:
    runs = []
    for nodes, seconds in (({"openvino": 300}, 1.0), ({"openvino": 200, "cpu": 100}, 2.0)):
        ran = ExecutionInfo(engine="onnxruntime", version="1", provider="openvino", nodes=nodes, threads=2)
        cell = made_cell(provider="openvino")
        samples = [made_sample(cell, number, tg=seconds, ran=ran) for number in (0, 1)]
        runs.append(made_run(made_target(), made_device(), *samples))
    assert [str(change.key) for change in compare_runs(*runs).regressions(0.05)] == [
        "dense tg4 (openvino, 2 threads, plain, Made CPU)"
    ]


def test_an_emulated_device_is_another_one() -> None:
    with pytest.raises(EdgeSkipError, match=r"different devices \(Made CPU; Made CPU, emulated: 4x CPU throttling\)"):
        compare_runs(run_of([1]), run_of([4], {"emulated": "4x CPU throttling"}))
    found = compare_runs(run_of([1]), run_of([4], {"emulated": "4x CPU throttling"}), other_device=True)
    assert found.changes[0].ratio.value == pytest.approx(0.25)


def test_devices_of_one_name_are_not_mixed() -> None:
    both = [run_of([1]), run_of([2])]
    for run, seconds in zip(both, (3, 3), strict=True):
        run.add(made_device("there"))
        run.add(made_sample(made_cell(device="there"), 0, tg=seconds))
    found = {
        change.key.device: change.ratio.value for change in compare_runs(*both).changes if change.key.measure == "tg4"
    }
    assert found == {"Made CPU": pytest.approx(0.5), "Made CPU #2": pytest.approx(1)}


def test_conditions_and_failures_are_told() -> None:
    runs = []
    for pulse, busy in ((100.0, 0.02), (80.0, 0.5)):
        seen = SystemConditions(pulse=[pulse, pulse], others_cores=busy)
        runs.append(made_run(made_target(), made_device(), made_sample(made_cell(), 0, tg=1, conditions=seen)))
    runs[1].add(made_failure(made_cell("skip8"), "no memory left"))
    assert compare_runs(*runs).differences == (
        "1 of 1 rounds of B ran while the machine was busy or throttled",
        "Made CPU: a fixed piece of work ran 20% slower in B: the machine changed, whatever the program did",
        "skip8 cpu plain t2 on here failed in B: no memory left",
    )


def test_what_is_0_has_no_ratio() -> None:
    runs = [made_run(made_target(), made_device(), made_sample(made_cell(), 0, answers=[made_answer(gaps)]))
            for gaps in ([0.1, 0.1, 0.1], [0.3, 0.0, 0.0])]  # fmt: skip
    found = compare_runs(*runs)
    assert "ITL p50" not in [change.key.measure for change in found.changes]
    assert "dense ITL p50 (cpu, 2 threads, plain, Made CPU) was 0 in a round: no ratio" in found.differences


def test_nothing_in_common() -> None:
    after = made_run(made_target("other"), made_device(), made_sample(made_cell("other"), 0, tg=1))
    with pytest.raises(EdgeSkipError, match="no row in common"):
        compare_runs(run_of([1]), after)


def test_exit_codes(cli: Cli, tmp_path: Path) -> None:
    a = write_run(run_of([1, 1, 1]), tmp_path / "a.jsonl")
    b = write_run(run_of([1.1, 1.1, 1.1]), tmp_path / "b.jsonl")
    done = cli("compare", a, b)
    assert done.code == 1
    assert "1 of 4 speeds are worse by more than 5.0%: dense tg4 (cpu, 2 threads, plain, Made CPU)" in done.out
    assert "0.909 [0.909–0.909]" in done.out
    assert cli("compare", a, b, "--fail-above", "20%").code == 0
    assert cli("compare", a, b, "--fail-above", "0.2").code == 0
    assert cli("compare", b, a).code == 0
    assert cli("compare", a, b, "--measure", "TPOT").code == 0


def test_a_bound_is_compared_with_what_is_printed(cli: Cli, tmp_path: Path) -> None:
    """5.04 % slower prints as 0.950, which is not worse than 5 %; 5.2 % prints as 0.948. Oracle: the printed line."""
    a = write_run(run_of([1, 1, 1]), tmp_path / "a.jsonl")
    for slower, printed, code in ((1 / 0.9496, "0.950", 0), (1 / 0.948, "0.948", 1)):
        b = write_run(run_of([slower] * 3), tmp_path / f"{code}.jsonl")
        done = cli("compare", a, b, "--fail-above", "5%")
        assert (done.code, printed in done.out) == (code, True)


def test_json(cli: Cli, tmp_path: Path) -> None:
    a = write_run(run_of([1, 1, 1]), tmp_path / "a.jsonl")
    b = write_run(run_of([1.1, 1.1, 1.1]), tmp_path / "b.jsonl")
    done = cli("compare", a, b, "-o", "json")
    assert done.code == 1
    found = json.loads(done.out)
    assert found["fail_above"] == 0.05
    assert [key["measure"] for key in found["regressions"]] == ["tg4"]
    assert found["changes"][0]["ratio"]["value"] == pytest.approx(1 / 1.1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--fail-above", "fast"), "--fail-above fast is not a share"),
        (("--fail-above", "-1%"), "is not a share"),
        (("--fail-above", "nan"), "is not a share"),
        (("-o", "csv"), "csv is unknown"),
    ],
)
def test_bad_options(cli: Cli, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    a = write_run(run_of([1]), tmp_path / "a.jsonl")
    assert words in cli("compare", a, a, *arguments).complaint()


def test_bad_files(cli: Cli, tmp_path: Path) -> None:
    a = write_run(run_of([1]), tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text("{}")
    assert "a benchmark run" in cli("compare", a, tmp_path / "b.jsonl").complaint()
    assert "No such file" in cli("compare", a, tmp_path / "c.jsonl").complaint()
