"""The check after export of what an ONNX artifact drafts with: each draft against the torch model it stands for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.core.plan import Plan
from edgeskip.exporters.onnx.drafts import GENAI_DRAFT_FILE
from edgeskip.exporters.split import exiting
from edgeskip.exporters.verify import Bound, DraftCheck, Measured, verify

if TYPE_CHECKING:
    from edgeskip.artifacts.manifest import GraphRecord
    from edgeskip.exporters.onnx.drafts import Exit
    from edgeskip.models.source import ModelSource


def check_exits(
    source: ModelSource,
    plan: Plan,
    exits: Sequence[Exit],
    target: Path,
    genai_draft: GraphRecord,
    *,
    bound: Bound,
    frugal: bool,
) -> Iterator[tuple[str, Measured]]:
    """Name and check of every exit, run by the engine that drafts, and of `genai_draft` where that is a graph besides.

    Oracle: torch under `plan` and without the blocks after the exit, through the same adapter and rows of the head.
    """
    for number, cut in enumerate(exits):
        draft = DraftCheck(number, cut.chosen.adapter, cut.head.tokens)
        graphs = [genai_draft] if number == 0 and genai_draft.file == GENAI_DRAFT_FILE else []
        under = exiting(plan, cut.layer)
        measured = verify(source, under, target, bound=bound, frugal=frugal, draft=draft, graphs=graphs)
        yield f"draft after {cut.layer} blocks", measured


def check_skip_plan(
    source: ModelSource, plan: Plan, target: Path, genai_draft: GraphRecord, *, bound: Bound, frugal: bool
) -> Iterator[tuple[str, Measured]]:
    """Name and check of the graph with its gates shut, and of `genai_draft`. Oracle: torch under `plan` by hooks."""
    draft = DraftCheck()
    yield (
        "skip-plan draft",
        verify(source, plan, target, bound=bound, frugal=frugal, draft=draft, graphs=[genai_draft]),
    )
