"""The check after export of what an ONNX artifact drafts with: each draft against the torch model it stands for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.exporters.onnx.drafts import GENAI_DRAFT_FILE
from edgeskip.exporters.split import exiting
from edgeskip.exporters.verify import Bound, DraftCheck, verify
from edgeskip.plan import Plan

if TYPE_CHECKING:
    from edgeskip.exporters.families.source import ModelSource
    from edgeskip.exporters.onnx.drafts import Exit
    from edgeskip.manifest import GraphRecord, VerificationRecord


@dataclass(frozen=True)
class CheckedDraft:
    """What the check of one draft measured. `name` is for messages."""

    name: str
    record: VerificationRecord


def check_exits(
    source: ModelSource,
    plan: Plan,
    exits: Sequence[Exit],
    target: Path,
    genai_draft: GraphRecord,
    *,
    bound: Bound,
    frugal: bool,
) -> Iterator[CheckedDraft]:
    """Every exit through the engine that drafts, and `genai_draft` where that is a graph besides.

    Oracle: torch under `plan` and without the blocks after the exit, through the same map and rows of the head.
    """
    for number, cut in enumerate(exits):
        draft = DraftCheck(number, cut.exit_map, cut.head.tokens)
        graphs = [genai_draft] if number == 0 and genai_draft.file == GENAI_DRAFT_FILE else []
        under = exiting(plan, cut.layer)
        record = verify(source, under, target, bound=bound, frugal=frugal, draft=draft, graphs=graphs)
        yield CheckedDraft(f"draft after {cut.layer} blocks", record)


def check_skip_plan(
    source: ModelSource, plan: Plan, target: Path, genai_draft: GraphRecord, *, bound: Bound, frugal: bool
) -> CheckedDraft:
    """The graph with its gates shut, and `genai_draft`. Oracle: torch under `plan` by hooks."""
    record = verify(source, plan, target, bound=bound, frugal=frugal, draft=DraftCheck(), graphs=[genai_draft])
    return CheckedDraft("skip-plan draft", record)


def agreement(source: ModelSource, target: Path, *, frugal: bool) -> float:
    """Share of the shipped text's tokens that a skip-plan draft predicts as the whole torch model does."""
    dense = Plan(source.decoder.config.num_blocks)
    return verify(source, dense, target, bound=Bound(), frugal=frugal, draft=DraftCheck()).top1_agreement
