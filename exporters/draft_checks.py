"""The check after export of what an ONNX artifact drafts with: each draft against the torch model it stands for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.exporters.onnx.drafts import DRAFT_FILE, WHOLE_VOCABULARY_FILE
from edgeskip.exporters.split import exiting
from edgeskip.exporters.verify import Bound, DraftCheck, verify
from edgeskip.plan import Plan

if TYPE_CHECKING:
    from edgeskip.exporters.families.source import ModelSource
    from edgeskip.exporters.onnx.drafts import Exit
    from edgeskip.manifest import VerificationRecord


@dataclass(frozen=True)
class CheckedDraft:
    """What the check of one draft measured. `name` is for messages."""

    name: str
    record: VerificationRecord


def check_exits(
    source: ModelSource, plan: Plan, exits: Sequence[Exit], target: Path, *, bound: Bound, frugal: bool
) -> Iterator[CheckedDraft]:
    """Every exit through the engine that drafts, and the graph for other runtimes where the heads are trimmed.

    Oracle: torch under `plan` and without the blocks after the exit, through the same map and rows of the head.
    """
    for number, cut in enumerate(exits):
        check = partial(verify, source, exiting(plan, cut.layer), target, bound=bound, frugal=frugal)
        tokens = cut.head.tokens
        yield CheckedDraft(f"draft after {cut.layer} blocks", check(draft=DraftCheck(number, cut.exit_map, tokens)))
        if number == 0 and tokens is not None:
            other = DraftCheck(None, cut.exit_map, tokens, WHOLE_VOCABULARY_FILE)
            yield CheckedDraft(WHOLE_VOCABULARY_FILE, check(draft=other))


def check_skip_plan(
    source: ModelSource, plan: Plan, target: Path, *, bound: Bound, frugal: bool
) -> Iterator[CheckedDraft]:
    """The gated graph with its gates shut, and the graph for other runtimes. Oracle: torch under `plan` by hooks."""
    check = partial(verify, source, plan, target, bound=bound, frugal=frugal)
    yield CheckedDraft("skip-plan draft", check(draft=DraftCheck()))
    yield CheckedDraft(DRAFT_FILE, check(draft=DraftCheck(None, graph=DRAFT_FILE)))


def agreement(source: ModelSource, target: Path, *, frugal: bool) -> float:
    """Share of the shipped text's tokens that a skip-plan draft predicts as the whole torch model does."""
    dense = Plan(source.decoder.config.num_blocks)
    return verify(source, dense, target, bound=Bound(), frugal=frugal, draft=DraftCheck()).top1_agreement
