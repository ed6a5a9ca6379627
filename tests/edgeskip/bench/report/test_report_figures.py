"""What the report works out of runs besides rows: loss, parts of times, acceptance, doubts. Oracle: by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_runs import (
    made_answer,
    made_cell,
    made_device,
    made_quality,
    made_run,
    made_sample,
    made_speculation,
    made_target,
)

from edgeskip.bench.report.breakdown import decode_parts, drafting_stats, first_token_parts
from edgeskip.bench.report.environment_sections import doubts_of
from edgeskip.bench.report.merged_runs import MergedRuns, ReportEntry, merge_runs
from edgeskip.bench.report.quality import QualityLoss, loss_of
from edgeskip.bench.report.speed import decode_measure, fastest
from edgeskip.bench.report.summary import summary_of
from edgeskip.bench.runner.run_file import BenchRun
from edgeskip.bench.schema import SystemConditions, Target


def joined(*lines: Any, **settings: Any) -> MergedRuns:
    return merge_runs([(Path("run.jsonl"), made_run(*lines, **settings))])


def only(run: BenchRun) -> ReportEntry:
    return merge_runs([(Path("run.jsonl"), run)]).entries[0]


def loss(*targets: Target, strategy: Any = "plain") -> QualityLoss | None:
    """Of the last of the targets, the first being the baseline."""
    cell = made_cell(targets[-1].name, strategy)
    found = joined(
        *targets, made_device(), made_sample(made_cell(targets[0].name), 0, tg=1), made_sample(cell, 1, tg=1)
    )
    return loss_of(found, next(entry for entry in found.entries if entry.cell == cell))


def test_a_measured_loss_is_against_its_reference() -> None:
    found = loss(
        made_target(quality=made_quality(20)), made_target("skip8", quality=made_quality(25, "dense", 0.2, 0.7))
    )
    assert found == QualityLoss(pytest.approx(0.25), 0.2, 0.7, "dense", "wiki.test.raw")


def test_perplexities_of_different_windows_are_not_compared() -> None:
    other = made_quality(20).model_copy(update={"window": 512})
    found = loss(made_target(quality=other), made_target("skip8", quality=made_quality(25, "dense", 0.2, 0.7)))
    assert found is not None
    assert (found.perplexity_increase, found.kl) == (None, 0.2)


def test_nobody_is_lossless_because_nobody_measured() -> None:
    assert loss(made_target(quality=made_quality(20)), made_target("skip8")) is None
    assert loss(made_target(), made_target("fp16", precision="fp16")) is None  # dense, and not the baseline's model
    same = loss(made_target(), made_target("exit4"), strategy="self-speculative")
    assert same is not None
    assert same.by_label
    assert (same.perplexity_increase, same.kl) == (0, 0)


def test_what_is_skipped_online_was_not_measured() -> None:
    quality = made_quality(20, "dense", 0.0, 1.0)
    assert loss(made_target(quality=made_quality(20)), made_target("gates", quality=quality), strategy="online") is None


def test_parts_of_the_first_token_and_of_a_decoded_one() -> None:
    answers = [made_answer([0.1, 0.1], ttft=0.2, runtime_s=0.15), made_answer([0.2, 0.2], ttft=0.4, runtime_s=0.33)]
    entry = only(made_run(made_target(), made_device(), made_sample(made_cell(), 0, answers=answers)))
    assert [(part.name, part.ms) for part in first_token_parts(entry)] == [
        ("template and tokenizer", pytest.approx(30)), ("prefill", pytest.approx(240)), ("rest", pytest.approx(30)),
    ]  # fmt: skip
    # 4 tokens in 600 ms, 480 of them in the runtime
    assert [(part.name, part.ms) for part in decode_parts(entry)] == [
        ("inference runtime", pytest.approx(120)), ("rest", pytest.approx(30)),
    ]  # fmt: skip


def test_parts_with_drafts() -> None:
    told = made_speculation(2, 8, 2, draft_s=0.1, verify_s=0.2, plain_s=0.04)
    answer = made_answer([0.2, 0.0, 0.0, 0.2], speculation=told, runtime_s=0.3)
    entry = only(made_run(made_target(), made_device(), made_sample(made_cell(), 0, answers=[answer])))
    assert [(part.name, round(part.ms, 6)) for part in decode_parts(entry)] == [
        ("drafting", 25), ("verifying", 50), ("plain steps", 10), ("rest", 15),
    ]  # fmt: skip


def test_what_is_not_told_has_no_parts() -> None:
    answers = [made_answer([0.1], runtime_s=0.05), made_answer([0.1])]
    assert (
        decode_parts(only(made_run(made_target(), made_device(), made_sample(made_cell(), 0, answers=answers)))) == []
    )
    assert first_token_parts(only(made_run(made_target(), made_device(), made_sample(made_cell(), 0, tg=1)))) == []


def drafted(gaps: list[float], rounds: int, drafted: int, accepted: int) -> Any:
    answer = made_answer(gaps, speculation=made_speculation(rounds, drafted, accepted))
    return drafting_stats(only(made_run(made_target(), made_device(), made_sample(made_cell(), 0, answers=[answer]))))


def test_acceptance_by_position() -> None:
    # Rounds gave out 2, 0, 3 and 1 drafted tokens; within a round tokens come microseconds apart.
    gaps = [0.1, 0, 3e-6, 0.1, 0.1, 2e-6, 0, 4e-6, 0.1, 0]
    found = drafted(gaps, 4, 16, 6)
    assert found.acceptance == pytest.approx(6 / 16)
    assert found.accepted_per_round == pytest.approx(1.5)
    assert found.at_least == (3 / 4, 2 / 4, 1 / 4)


def test_positions_that_do_not_add_up_are_not_known() -> None:
    assert drafted([0.1, 0.1, 0.1, 0.1], 2, 8, 4).at_least == ()  # tokens given out one by one
    assert drafted([0.1, 0, 0, 0], 2, 8, 1).at_least == ()  # more than were accepted


def conditioned(*conditions: SystemConditions) -> list[tuple[tuple[int, ...], str]]:
    samples = [made_sample(made_cell(), n, tg=1, conditions=c) for n, c in enumerate(conditions)]
    return [(doubt.rounds, doubt.message) for doubt in doubts_of(joined(made_target(), made_device(), *samples))]


def test_doubtful_rounds() -> None:
    assert conditioned(
        SystemConditions(others_cores=0.1, pulse=[100, 91]),
        SystemConditions(others_cores=0.4, pulse=[100, 75]),
        SystemConditions(pulse=[80, 80], throttle_events=2),
        SystemConditions(),
    ) == [
        ((2,), "other programs kept up to 0.400 cores busy"),
        ((2,), "a fixed piece of work ran up to 25.0 % slower after the round than before it (throttling?)"),
        ((3,), "a fixed piece of work ran up to 20.0 % slower than at best on this device (throttling?)"),
        ((3,), "the kernel counted up to 2 thermal throttling events"),
    ]


def decoding(cell: Any, *tpot: float) -> list[Any]:
    return [made_sample(cell, n, tg=1, answers=[made_answer([s, s])]) for n, s in enumerate(tpot)]


def test_the_fastest_by_real_prompts_where_there_are_some() -> None:
    found = joined(
        made_target(), made_target("skip8"), made_device(), *decoding(made_cell(), 0.1, 0.1),
        made_sample(made_cell("skip8"), 0, tg=0.1),
    )  # fmt: skip
    assert decode_measure(found.entries) == "TPOT"
    best = fastest(found, "Made CPU")
    assert best is not None
    assert (best.entry.target, best.median) == ("dense", pytest.approx(10))


def test_the_summary_says_what_the_figures_say() -> None:
    found = joined(
        made_target(quality=made_quality(20)), made_target("skip8", quality=made_quality(25, "dense", 0.2, 0.7)),
        made_device(emulated="4x CPU throttling"), *decoding(made_cell(), 0.1, 0.1, 0.1),
        *decoding(made_cell("skip8"), 0.08, 0.08, 0.08),
    )  # fmt: skip
    assert summary_of(found) == [
        (
            "Made CPU, emulated: 4x CPU throttling",
            "skip8 (cpu, 2 threads, plain) decodes fastest: 12.5 tokens/s on real prompts, 1.25 times as fast as dense "
            "decoded plainly (95 % interval 1.25 to 1.25). Label: lossy-skip. Loss: perplexity +25.0 %, KL 0.200 nats "
            "per token and the same most likely token at 70.0 % of positions, against dense on wiki.test.raw.",
        ),
        (
            "",
            "6 rounds of 2 cells on 1 device were measured, each in its own process. "
            "Emulated, not the device itself: Made CPU, emulated: 4x CPU throttling.",
        ),
    ]


def test_the_summary_is_modest() -> None:
    found = joined(
        made_target(), made_target("skip8"), made_device(), *decoding(made_cell(), 0.1, 0.2),
        *decoding(made_cell("skip8"), 0.09, 0.19),
    )  # fmt: skip
    (_, words), _ = summary_of(found)
    assert "What it loses was not measured." in words
    assert "The interval includes 1: a difference is not shown." in words
    one = joined(made_target(), made_target("skip8"), made_device(), *decoding(made_cell("skip8"), 0.1))
    (_, words), _ = summary_of(one)
    assert "skip8 (cpu, 2 threads, plain) decodes 10.0 tokens/s on real prompts; there is no baseline" in words
