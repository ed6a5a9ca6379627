"""From speculative generations to figures and tables: speed against plain, acceptance, where a round's time goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from edgeskip.runtime.speculation.policy import Speculation
from harness.results import Spread, Table, Target
from harness.rounds import Call, summed_calls

LOOP_BOUND = 1.05  # most that a round in the loop may take, of its drafts and its verification by themselves
AUTO_BOUND = 0.97  # least that auto may reach, of plain decoding


@dataclass(frozen=True)
class Setting:
    """One way to decode; `policy` None is plain decoding."""

    name: str
    policy: Speculation | None


@dataclass(frozen=True)
class Run:
    """One generation. `steps` tokens in `decode_s` seconds; `loop_s` of these in rounds, which `bare_s` repeat.

    `same` as plain decoding's tokens in this round; else `position` is the first that differs, `margin` the one between
    the two likeliest tokens there, in logits.
    """

    setting: str
    round: int
    prompt: str
    tokens: int
    steps: int
    decode_s: float
    speculation: dict[str, Any] | None = None
    loop_s: float | None = None
    bare_s: float | None = None
    category: str = ""
    calls: list[Call] = field(default_factory=list)  # of the engine, behind the prompt
    same: bool | None = None
    position: int | None = None
    margin: float | None = None


@dataclass(frozen=True)
class Round:
    """Milliseconds of a mean round, by what the engine was called for. None if there was no such call."""

    draft_steps: float  # of the engine, a round
    draft_step_ms: float | None
    drafter_ms: float  # a round, beside these: choosing, looking n-grams up
    verify_ms: float | None
    verify_by_rows: dict[int, tuple[int, float]]  # rows → (how often, ms)
    plain_step_ms: float | None
    loop_ms: float  # of each turn of the loop, plain steps included: accepting, writing text


@dataclass(frozen=True)
class Row:
    """A setting's figures over all prompts, by round; `ratio` is to plain decoding."""

    setting: str
    tokens_per_s: Spread
    ratio: Spread
    acceptance: float | None = None  # of the tokens drafted; None if none were
    accepted_length: float | None = None  # tokens a round, beside the one that every round gives
    shares: tuple[float, float, float, float] | None = None  # of decode time: draft, verify, plain steps, the rest
    loop: Spread | None = None  # loop_s / bare_s
    a_round: Round | None = None
    identical: float | None = None  # share of texts that are plain decoding's


@dataclass(frozen=True)
class Result:
    """One artifact's part."""

    artifact: str
    label: str
    others_cores: float | None
    rows: list[Row]
    categories: dict[str, list[Row]]
    runs: list[Run]


def rows_of(settings: Sequence[Setting], runs: Sequence[Run]) -> list[Row]:
    """Return a row per setting, in their order."""
    numbers = sorted({run.round for run in runs})

    def speeds(name: str) -> list[float]:
        some = [[run for run in runs if (run.setting, run.round) == (name, number)] for number in numbers]
        return [sum(run.steps for run in one) / sum(run.decode_s for run in one) for one in some]

    plain = speeds(settings[0].name)
    rows = []
    for setting in settings:
        own = [run for run in runs if run.setting == setting.name]
        speed = speeds(setting.name)
        compared = [run.same for run in own if run.same is not None]
        rows.append(
            Row(
                setting.name, Spread.of(speed), Spread.of_ratios(speed, plain), **counts_of(own),
                loop=loop_of(own, numbers), a_round=round_of(own), identical=fmean(compared) if compared else None,
            )
        )  # fmt: skip
    return rows


def by_category(settings: Sequence[Setting], runs: Sequence[Run]) -> dict[str, list[Row]]:
    """Rows of each category's runs; without those where plain decoding wrote nothing to time."""
    found = {}
    for category in dict.fromkeys(run.category for run in runs):
        some = [run for run in runs if run.category == category]
        if any(run.steps for run in some if run.setting == settings[0].name):
            found[category] = rows_of(settings, some)
    return found


def counts_of(runs: Sequence[Run]) -> dict[str, Any]:
    """Acceptance and shares of time over all runs of one setting."""
    found = [run.speculation for run in runs if run.speculation is not None]
    if not found:
        return {}
    total = {key: sum(one[key] for one in found) for key in ("rounds", "drafted", "accepted")}
    decode_s = sum(run.decode_s for run in runs)
    parts = ("draft_s", "verify_s", "plain_s", "overhead_s")
    return {
        "acceptance": total["accepted"] / total["drafted"] if total["drafted"] else None,
        "accepted_length": total["accepted"] / total["rounds"] if total["rounds"] else None,
        "shares": tuple(sum(one[part] for one in found) / decode_s for part in parts),
    }


def loop_of(runs: Sequence[Run], numbers: Sequence[int]) -> Spread | None:
    timed = [run for run in runs if run.loop_s is not None and run.bare_s is not None]
    by_round = [[run for run in timed if run.round == number] for number in numbers]
    if not all(by_round):
        return None
    return Spread.of(sum(r.loop_s or 0.0 for r in some) / sum(r.bare_s or 0.0 for r in some) for some in by_round)


def round_of(runs: Sequence[Run]) -> Round | None:
    """Return a mean round of one setting's runs; None if they were not speculative or made no round."""
    found = [run for run in runs if run.speculation is not None]
    stats = [run.speculation for run in found if run.speculation is not None]
    rounds = sum(one["rounds"] for one in stats)
    if not rounds:
        return None
    calls = summed_calls([run.calls for run in found])
    drafts = [call for call in calls if call.kind == "draft"]
    # An engine that does not draft verifies by a step over several tokens; a step over one is a plain one.
    verifying = [call for call in calls if call.kind == "verify" or (call.kind == "step" and call.rows > 1)]
    plain = [call for call in calls if call.kind == "step" and call.rows == 1]
    draft_s, verify_s, plain_s = (sum(call.seconds for call in some) for some in (drafts, verifying, plain))
    in_drafts = sum(one["draft_s"] for one in stats)
    turns = rounds + sum(one["plain_steps"] for one in stats)
    left = sum(run.decode_s for run in found) - in_drafts - verify_s - plain_s
    return Round(
        draft_steps=sum(call.count for call in drafts) / rounds,
        draft_step_ms=_mean_ms(drafts),
        drafter_ms=1e3 * max(0.0, in_drafts - draft_s) / rounds,
        verify_ms=_mean_ms(verifying),
        verify_by_rows={call.rows: (call.count, 1e3 * call.seconds / call.count) for call in verifying},
        plain_step_ms=_mean_ms(plain),
        loop_ms=1e3 * max(0.0, left) / turns,
    )


def _mean_ms(calls: Sequence[Call]) -> float | None:
    return 1e3 * sum(call.seconds for call in calls) / sum(call.count for call in calls) if calls else None


def targets_of(result: Result) -> list[Target]:
    targets = []
    for row in result.rows:
        if row.loop:
            what = f"{result.artifact}, {row.setting}: a round in the loop over its drafts and verification alone"
            targets.append(Target(what, LOOP_BOUND, row.loop, at_least=False))
        if row.setting.endswith("auto"):
            what = f"{result.artifact}, {row.setting}: speed over plain decoding"
            targets.append(Target(what, AUTO_BOUND, row.ratio))
    return targets


def tables_of(result: Result) -> list[Table]:
    """Return all prompts, a mean round, and categories if there are several."""
    heads = ["tok/s", "÷ plain", "accepted", "a round", "draft", "verify", "plain steps", "rest", "loop ÷ bare"]
    lines = []
    for row in result.rows:
        cells = [row.setting, row.tokens_per_s.text(1), row.ratio.text(3), _percent(row.acceptance)]
        cells.append("" if row.accepted_length is None else f"{row.accepted_length:.2f}")
        cells += [f"{share:.1%}" for share in row.shares] if row.shares else [""] * 4
        lines.append([*cells, row.loop.text(3) if row.loop else "", _percent(row.identical)])
    name = f"{result.artifact} ({result.label})"
    tables = [Table(name, [name, *heads, "identical"], lines), _rounds_table(name, result.rows)]
    return [*tables, *([_categories_table(name, result)] if len(result.categories) > 1 else [])]


def _rounds_table(name: str, rows: Sequence[Row]) -> Table:
    heads = ["draft steps", "one of them", "drafter beside", "verify", "by rows (how often)", "plain step"]
    lines = []
    for row in rows:
        if one := row.a_round:
            by_rows = ", ".join(f"{rows}: {ms:.1f} ({count})" for rows, (count, ms) in one.verify_by_rows.items())
            cells = [f"{one.draft_steps:.2f}", _ms(one.draft_step_ms), f"{one.drafter_ms:.2f}", _ms(one.verify_ms)]
            lines.append([row.setting, *cells, by_rows, _ms(one.plain_step_ms), f"{one.loop_ms:.2f}"])
    return Table(f"{name}, a round", ["a round, ms", *heads, "loop, a turn"], lines)


def _categories_table(name: str, result: Result) -> Table:
    """Speed over plain decoding (share accepted), by category; then the mean of the categories and all prompts."""
    lines = [
        [category, *(_ratio(row.ratio.median, row.acceptance) for row in rows[1:])]
        for category, rows in result.categories.items()
    ]
    means = []
    for at in range(1, len(result.rows)):
        some = [rows[at] for rows in result.categories.values()]
        accepted = [row.acceptance for row in some if row.acceptance is not None]
        means.append(_ratio(fmean(row.ratio.median for row in some), fmean(accepted) if accepted else None))
    everything = (_ratio(row.ratio.median, row.acceptance) for row in result.rows[1:])
    lines += [["mean of these", *means], ["all prompts", *everything]]
    return Table(f"{name} by category", ["÷ plain (accepted)", *(row.setting for row in result.rows[1:])], lines)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _ratio(ratio: float, accepted: float | None) -> str:
    return f"{ratio:.3f}" if accepted is None else f"{ratio:.3f} ({accepted:.1%})"
