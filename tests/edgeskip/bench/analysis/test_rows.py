"""From samples to rows. Oracle: by hand, on made-up samples."""

from __future__ import annotations

import pytest
from made_runs import (
    WORK,
    made_answer,
    made_cell,
    made_device,
    made_run,
    made_sample,
    made_speculation,
    made_target,
)

from edgeskip.bench.analysis.rows import MeasureRow, rows_of
from edgeskip.bench.runner.run_file import BenchRun
from edgeskip.bench.schema import EnergyUse, ExecutionInfo
from edgeskip.core.errors import EdgeSkipError


def by_measure(run: BenchRun, target: str = "dense", strategy: str = "plain") -> dict[str, MeasureRow]:
    return {r.measure: r for r in rows_of(run) if r.cell.target == target and r.cell.strategy == strategy}


def test_synthetic_tests_are_tokens_a_second() -> None:
    cell = made_cell()
    run = made_run(made_target(), made_device(), made_sample(cell, 0, pp=2, tg=1), made_sample(cell, 1, pp=4, tg=0.5))
    rows = by_measure(run)
    assert (rows["pp8"].values, rows["tg4"].values) == ((4, 2), (4, 8))
    assert (rows["tg4"].mean, rows["tg4"].median, rows["tg4"].sd) == pytest.approx((6, 6, 2.8284271))
    assert rows["tg4"].unit == "tokens/s"
    assert rows["tg4"].higher_is_better


def test_serving_figures() -> None:
    """TTFT is the prompts' mean; TPOT the mean of all gaps; percentiles are of all gaps."""
    answers = [made_answer([0.1, 0.2], ttft=0.4), made_answer([0.3, 0.0], ttft=0.2)]
    rows = by_measure(made_run(made_target(), made_device(), made_sample(made_cell(), 0, answers=answers)))
    assert rows["TTFT"].values == pytest.approx((300,))
    assert rows["TPOT"].values == pytest.approx((150,))
    assert rows["ITL p50"].values == pytest.approx((150,))
    assert rows["ITL p90"].values == pytest.approx((270,))  # numpy: 0.2 + 0.7 · 0.1
    assert rows["load"].values == (0.5,)
    assert "acceptance" not in rows
    assert "pp8" not in rows


def test_acceptance_energy_and_memory() -> None:
    told = [made_speculation(2, 6, 3), made_speculation(1, 4, 1)]
    answers = [made_answer([0.1], speculation=one) for one in told]
    sample = made_sample(
        made_cell(strategy="self-speculative"), 0, answers=answers, energy=EnergyUse(joules=8, source="RAPL"),
        peak_rss_bytes=5_000_000,
    )  # fmt: skip
    rows = by_measure(made_run(made_target(), made_device(), sample), strategy="self-speculative")
    assert rows["acceptance"].values == (40,)
    assert rows["energy"].values == (2,)  # two answers of two tokens
    assert rows["peak memory"].values == (5,)
    assert rows["TTFT"].label == "verified"


def test_ratios_are_paired_by_round_and_more_is_better() -> None:
    dense, skip = made_cell(), made_cell("skip8")
    samples = [made_sample(dense, 0, pp=2, tg=1, answers=[made_answer([0.2])])]
    samples += [made_sample(dense, 1, pp=4, tg=2, answers=[made_answer([0.4])])]
    samples += [made_sample(skip, 0, pp=1, tg=0.8, answers=[made_answer([0.1])])]
    samples += [made_sample(skip, 1, pp=2, tg=1.6, answers=[made_answer([0.2])])]
    run = made_run(made_target(), made_target("skip8"), made_device(), *samples)
    rows = by_measure(run, "skip8")
    assert rows["pp8"].ratio is not None
    assert (rows["pp8"].ratio.value, rows["pp8"].ratio.low, rows["pp8"].ratio.high) == pytest.approx((2, 2, 2))
    assert rows["tg4"].ratio is not None
    assert rows["tg4"].ratio.value == pytest.approx(1.25)
    assert rows["TPOT"].ratio is not None
    assert rows["TPOT"].ratio.value == pytest.approx(2)  # half the time is twice as good
    assert rows["TPOT"].baseline == "dense"
    assert by_measure(run)["pp8"].ratio is None
    assert rows["pp8"].label == "lossy-skip"


def test_only_common_rounds_are_paired() -> None:
    dense, skip = made_cell(), made_cell("skip8")
    samples = [made_sample(dense, 0, tg=1), made_sample(skip, 0, tg=0.5), made_sample(skip, 1, tg=100)]
    rows = by_measure(made_run(made_target(), made_target("skip8"), made_device(), *samples), "skip8")
    assert rows["tg4"].ratio is not None
    assert rows["tg4"].ratio.value == pytest.approx(2)
    assert rows["tg4"].ratio.low is None


def test_each_engine_has_its_baseline_unless_one_is_named() -> None:
    gguf = made_target("gguf", engine="llama.cpp")
    samples = [made_sample(made_cell(name), 0, tg=seconds) for name, seconds in (("dense", 1), ("gguf", 2))]
    run = made_run(made_target(), gguf, made_device(), *samples)
    assert by_measure(run, "gguf")["tg4"].ratio is None
    named = made_run(made_target(), gguf, made_device(), *samples, baselines=["dense"])
    row = by_measure(named, "gguf")["tg4"]
    assert row.ratio is not None
    assert (row.ratio.value, row.baseline) == (pytest.approx(0.5), "dense")


def test_no_baseline_on_another_provider_or_device() -> None:
    other = made_cell("skip8", provider="openvino")
    run = made_run(
        made_target(),
        made_target("skip8"),
        made_device(),
        made_sample(made_cell(), 0, tg=1),
        made_sample(other, 0, tg=1),
    )
    assert by_measure(run, "skip8")["tg4"].ratio is None


def test_the_roofline_by_hand() -> None:
    """4 tokens behind none in 0.1 s: 4 · (8e7 + 2e4 · 2.5) bytes of 2e10 a second."""
    run = made_run(made_target(work=WORK), made_device(), made_sample(made_cell(), 0, tg=0.1, pp=0.1))
    row = by_measure(run)["tg4"]
    memory = 4 * (8e7 + 2e4 * 2.5) / 0.1 / 2e10
    assert memory > 4 * (2.67e8 + 7e4 * 2.5) / 0.1 / 1e11
    assert (row.roofline, row.bound) == (pytest.approx(memory), "memory")
    # 8 positions, causal: 36 pairs; the head once.
    row = by_measure(run)["pp8"]
    compute = (8 * 2.1e8 + 5.7e7 + 7e4 * 36) / 0.1 / 1e11
    assert (row.roofline, row.bound) == (pytest.approx(compute), "compute")


def test_no_roofline_without_its_parts() -> None:
    sample = made_sample(made_cell(), 0, tg=0.1)
    for run in (
        made_run(made_target(), made_device(), sample),  # nothing counted
        made_run(made_target(work=WORK), made_device(rooflines=[]), sample),  # nothing measured
    ):
        assert by_measure(run)["tg4"].roofline is None


def test_where_nodes_ran_is_in_the_provider() -> None:
    ran = ExecutionInfo(
        engine="onnxruntime", version="1", provider="openvino", nodes={"openvino": 282, "cpu": 30}, threads=2
    )
    cell = made_cell(provider="openvino")
    assert (
        by_measure(made_run(made_target(), made_device(), made_sample(cell, 0, tg=1, ran=ran)))["tg4"].provider
        == "openvino (282/312 nodes)"
    )
    alone = ran.model_copy(update={"nodes": {"openvino": 312}})
    assert (
        by_measure(made_run(made_target(), made_device(), made_sample(cell, 0, tg=1, ran=alone)))["tg4"].provider
        == "openvino"
    )


@pytest.mark.parametrize(
    ("nodes", "text"), [({"cuda": 210}, "cuda:graphs"), ({"cuda": 210, "cpu": 3}, "cuda:graphs (210/213 nodes)")]
)
def test_nodes_are_counted_by_provider_without_its_variant(nodes: dict[str, int], text: str) -> None:
    ran = ExecutionInfo(engine="onnxruntime", version="1", provider="cuda:graphs", nodes=nodes, threads=2)
    sample = made_sample(made_cell(provider="cuda:graphs"), 0, tg=1, ran=ran)
    assert by_measure(made_run(made_target(), made_device(), sample))["tg4"].provider == text


def test_measurements_of_what_is_not_described() -> None:
    with pytest.raises(EdgeSkipError, match="measurements of skip8"):
        rows_of(made_run(made_target(), made_device(), made_sample(made_cell("skip8"), 0, tg=1)))


def test_what_is_skipped_online_is_lossy() -> None:
    run = made_run(
        made_target(), made_device(), made_sample(made_cell(strategy="online"), 0, answers=[made_answer([1])])
    )
    assert {row.label for row in rows_of(run)} == {"lossy-skip"}


def test_no_ratio_of_different_work() -> None:
    """Drafted tokens come in one go, so their gaps are of another kind; memory was taken by other work."""
    plain, drafts = made_cell(), made_cell(strategy="self-speculative")
    samples = [made_sample(cell, 0, answers=[made_answer([0.1, 0.2])], peak_rss_bytes=5) for cell in (plain, drafts)]
    rows = by_measure(made_run(made_target(), made_device(), *samples), strategy="self-speculative")
    assert {measure for measure, row in rows.items() if row.ratio} == {"TTFT", "TPOT", "load"}


def test_what_fell_back_has_no_ratio_and_no_roofline() -> None:
    cell, skip = made_cell(provider="cuda"), made_cell("skip8", provider="cuda")
    back = ExecutionInfo(engine="onnxruntime", version="1", provider="cpu", threads=2)
    samples = [made_sample(cell, n, tg=1) for n in range(2)]
    samples += [made_sample(skip, 0, tg=1), made_sample(skip, 1, tg=1, ran=back)]
    run = made_run(made_target(), made_target("skip8", work=WORK), made_device(), *samples)
    row = by_measure(run, "skip8")["tg4"]
    assert (row.provider, row.fell_back, row.ratio, row.roofline) == ("cuda or cpu", True, None, None)


def test_each_prompt_counts_alike() -> None:
    answers = [made_answer([0.1] * 9), made_answer([0.3])]
    run = made_run(made_target(), made_device(), made_sample(made_cell(), 0, answers=answers))
    assert by_measure(run)["TPOT"].values == pytest.approx((200,))
