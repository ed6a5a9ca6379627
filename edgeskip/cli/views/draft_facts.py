"""What a profile and an artifact say about drafting, as facts for `edgeskip inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeskip.artifacts.manifest import DraftRecord, ExitHead
    from edgeskip.profiles.schema import ExitStatistics, Profile

HEADS: dict[ExitHead, str] = {
    "plain": "plain head",
    "ridge": "calibrated map",
    "map": "trained map",
    "block": "trained block",
}


def draft_facts(draft: DraftRecord | None) -> dict[str, str]:
    """Return an artifact's draft; {} if it has none."""
    if draft is None:
        return {}
    if draft.kind == "skip-plan":
        skipped = draft.plan.skip if draft.plan else []
        agreed = _agreed(draft.agreement)
        return {"draft": f"skip-plan, without {len(skipped)} sublayers ({', '.join(skipped)}){agreed}"}
    exits = "; ".join(
        f"after {exit_.layer} blocks ({exit_.file}, {HEADS[exit_.head]}{_agreed(exit_.agreement)})"
        for exit_ in draft.exits
    )
    vocabulary = f"; head over the tokens of {draft.vocabulary}" if draft.vocabulary else ""
    return {"draft": f"early-exit {exits}{vocabulary}"}


def exit_facts(profile: Profile) -> dict[str, str]:
    """Return a profile's exits and best draft; {} if no exit was calibrated and no sweep was run."""
    facts = {}
    if profile.exits:
        facts["exits"] = "; ".join(map(_exit, profile.exits))
    best = profile.speculation
    if best is not None:
        vocabulary = f"{best.draft_vocab} draft tokens" if best.draft_vocab else "all draft tokens"
        facts["best draft"] = (
            f"exit layer {best.exit_layer}, γ {best.num_speculations}, {vocabulary}: {best.speedup:.2f}× plain, "
            f"{best.acceptance:.0%} accepted ({best.target} {best.precision}, {best.machine}, {best.created})"
        )
    return facts


def _exit(found: ExitStatistics) -> str:
    shares = [f"{found.layer}: {found.plain_agreement:.1%} plain"]
    if found.ridge_agreement is not None:
        shares.append(f"{found.ridge_agreement:.1%} with a map")
    if found.adapter is not None:
        agreed = "" if found.adapter_agreement is None else f"{found.adapter_agreement:.1%} "
        shares.append(f"{agreed}with a {HEADS[found.adapter]}")
    return ", ".join(shares)


def _agreed(agreement: float | None) -> str:
    return "" if agreement is None else f", agrees on {agreement:.1%}"
