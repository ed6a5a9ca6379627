"""How `edgeskip run` shows a generation: its summary line, drafted tokens in color, two of them side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from edgeskip.cli.views.tables import table
from edgeskip.core.plan_cost import short_cost
from edgeskip.core.terminal import Console
from edgeskip.runtime.comparison import NEAR_TIE

if TYPE_CHECKING:
    from edgeskip.artifacts.manifest import PlanSummary
    from edgeskip.core.plan_cost import PlanCost
    from edgeskip.runtime.comparison import DecodingComparison
    from edgeskip.runtime.generation import Generation, OnlineStats, SpeculationStats
    from edgeskip.runtime.stream import Piece

DRAFTED = "green"
_FAR = "more than rounding explains in fp32; quantized kernels differ more between one row and several"


def colored(pieces: list[Piece]) -> Text:
    """Return the text with drafted tokens in color."""
    return Text.assemble(*((str(piece), DRAFTED if piece.drafted else "") for piece in pieces))


def summary(generation: Generation, plan: PlanSummary | None, cost: PlanCost | None = None) -> Text:
    """Return one line: label, loss, strategy, speed and end; with speculation also its acceptance and gain."""
    stats = generation.stats
    lossy = generation.label in ("lossy-skip", "draft-only")
    skipped = f" ({len(plan.skip)} of {2 * plan.num_blocks} sublayers skipped)" if plan and plan.skip else ""
    loss = cost_clause(generation, plan, cost)
    facts = [
        f"{generation.strategy}, {generation.provider}, {stats.threads} thread{'s' if stats.threads > 1 else ''}",
        *([loss] if loss else []),
        f"{stats.prompt_tokens} prompt tokens, first token after {stats.ttft_s:.3f} s "
        f"({stats.prefill_tokens_per_s:.0f} tokens/s)",
        f"{stats.generated_tokens} tokens, {stats.decode_tokens_per_s:.1f} tokens/s",
        *([speculation_facts(stats.speculation)] if stats.speculation else []),
        *([online_facts(stats.online)] if stats.online else []),
        f"ended by {generation.finish_reason}",
    ]
    return Text.assemble((generation.label + skipped, "bold red" if lossy else "bold"), " | ", " | ".join(facts))


def cost_clause(generation: Generation, plan: PlanSummary | None, cost: PlanCost | None) -> str | None:
    """Return what this text loses against the dense model's; None if it loses nothing."""
    skips, known = bool(plan and plan.skip), short_cost(cost)
    if generation.label == "draft-only":
        return "what it loses against the dense model was not measured"
    if not skips:  # dense: only a precision can cost something
        return known or ("the dense model's own text" if generation.label == "verified" else None)
    known = known or "what it loses against the dense model was not measured"
    if cost is not None and cost.artifact is None and cost.plan is not None:
        known += " (the plan alone, in float32)"
    left_out = generation.stats.online
    if left_out is not None and left_out.gated:
        known += ", before what was skipped online"
    return known


def speculation_facts(stats: SpeculationStats) -> str:
    """Return what speculation did."""
    if not stats.rounds:
        return f"nothing drafted, {stats.plain_steps} plain step{'' if stats.plain_steps == 1 else 's'}"
    drafters = ", ".join(name for name, (_, drafted, _) in stats.drafts.items() if drafted) or "no draft"
    return (
        f"{stats.rounds} rounds by {drafters} and {stats.plain_steps} plain steps, {stats.accepted} of "
        f"{stats.drafted} drafted tokens accepted ({stats.acceptance_rate:.0%}), {stats.speedup:.2f}× plain"
    )


def online_facts(stats: OnlineStats) -> str:
    """Return what online skipping did."""
    if stats.threshold is None:
        skipped = f", {len(stats.gated)} FFNs skipped in the {stats.gated_steps} after them" if stats.gated else ""
        return f"{stats.watched_steps} of {stats.window} steps with every FFN{skipped}"
    watched = f"watched {stats.watched_steps} of {stats.window} steps"
    if not stats.gated:
        return f"{watched}, no FFN skipped (β {stats.threshold:.4g})"
    return (
        f"{watched}, {len(stats.gated)} of {len(stats.similarity)} FFNs skipped in the {stats.gated_steps} after them "
        f"(β {stats.threshold:.4g}): {', '.join(stats.gated)}"
    )


def side_by_side(comparison: DecodingComparison, plain: list[Piece], other: list[Piece]) -> Group:
    """Return both texts side by side, drafted tokens in color, and a table of what each cost."""
    name: str = comparison.other.strategy
    texts = Table(box=box.SIMPLE_HEAD, expand=True, show_lines=False, pad_edge=False)
    for column in ("plain", name):
        texts.add_column(column, ratio=1, overflow="fold")
    texts.add_row(colored(plain), colored(other))
    figures = table("", ">plain", f">{name}")
    first, second = comparison.plain.stats, comparison.other.stats
    rows = [
        ("label", comparison.plain.label, comparison.other.label),
        ("tokens", str(first.generated_tokens), str(second.generated_tokens)),
        ("first token, s", f"{first.ttft_s:.3f}", f"{second.ttft_s:.3f}"),
        (
            "decode, tokens/s",
            f"{first.decode_tokens_per_s:.1f}",
            f"{second.decode_tokens_per_s:.1f} ({comparison.speedup:.2f}×)",
        ),
    ]
    if second.speculation is not None:
        rows += _speculation_rows(second.speculation)
    if second.online is not None:
        rows.append(("FFNs skipped, steps without", "", f"{len(second.online.gated)}, {second.online.gated_steps}"))
    for row in rows:
        figures.add_row(*row)
    return Group(texts, figures, Text(verdict(comparison)))


def verdict(comparison: DecodingComparison) -> str:
    """Return whether the two texts are the same, and if not, how near the tie was."""
    if comparison.other.strategy == "draft-only":
        return "the draft's own text, not verified: the whole model writes another"
    if comparison.other.strategy == "online":
        return "with FFNs skipped online: the whole model may write another"
    if not comparison.greedy:
        return "sampled texts: they follow the same distribution but may differ"
    difference = comparison.difference
    if difference is None:
        return f"identical: {len(comparison.plain.tokens)} of {len(comparison.plain.tokens)} tokens"
    near = "rounding decides" if difference.margin < NEAR_TIE else _FAR
    return (
        f"the texts differ from token {difference.position}, where the two likeliest tokens are "
        f"{difference.margin:.2g} apart ({near})"
    )


def print_error_line(text: Text) -> None:
    """Print on stderr, in one line however long."""
    Console(stderr=True, highlight=False).print(text, soft_wrap=True)


def _speculation_rows(stats: SpeculationStats) -> list[tuple[str, str, str]]:
    by_position = " ".join(f"{share:.0%}" for share in stats.acceptance_per_position)
    per_round = f"{stats.mean_accepted_length:.2f} + 1"
    return [
        ("rounds, plain steps", "", f"{stats.rounds}, {stats.plain_steps}"),
        ("accepted / drafted", "", f"{stats.accepted} / {stats.drafted} ({stats.acceptance_rate:.0%})"),
        ("accepted, by position", "", by_position),
        ("tokens a round", "", per_round),
        ("draft, verify, plain, rest, s", "", " ".join(
            f"{seconds:.2f}" for seconds in (stats.draft_s, stats.verify_s, stats.plain_s, stats.overhead_s)
        )),
    ]  # fmt: skip
