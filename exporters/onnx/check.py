"""The check after an ONNX export: the whole model, every draft and the online gates, each against the torch model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeskip.core.plan import Skip
from edgeskip.exporters.online import decoding_statistics, gated_ffns
from edgeskip.exporters.onnx.drafts import GENAI_DRAFT_FILE, genai_graphs
from edgeskip.exporters.split import exit_plan
from edgeskip.exporters.verify import BOUNDS, DraftCheck, Measurement, require_match, verify
from edgeskip.models.source import is_large
from edgeskip.planning.dense_cost import artifact_cost, dense_source

if TYPE_CHECKING:
    from pathlib import Path

    from edgeskip.artifacts.manifest import DraftRecord, GraphRecord, Manifest, OnlineRecord
    from edgeskip.core.plan import Plan
    from edgeskip.exporters.draft import ExitDraft
    from edgeskip.exporters.job import ExportJob
    from edgeskip.exporters.verify import Bound
    from edgeskip.models.source import ModelSource
    from edgeskip.profiles.schema import Profile


def check_artifact(
    job: ExportJob, profile: Profile, plan: Plan, exits: Sequence[ExitDraft], manifest: Manifest, folder: Path
) -> Manifest:
    """Return the manifest of the artifact in `folder` with what the check measured.

    The whole model is compared under `plan`, then every draft or the gates. One of these that fails and is allowed to
    counts as the whole's failure.

    Args:
        job: What was exported.
        profile: The job's, without its plan if that is what drafts.
        plan: What the whole model skips.
        exits: The exits of an early-exit draft.
        manifest: The unchecked manifest.
        folder: The artifact, with that manifest in it.

    Raises:
        EdgeSkipError: If something does not match and the job's policy does not allow that.
    """
    source, policy = job.source, job.policy
    precision, draft = manifest.graph.precision, manifest.draft
    # A dense artifact in floating point loses what the check itself measures.
    dense = dense_source(profile, source, plan) if plan.skips or precision == "int4" else None
    bound = BOUNDS[precision]
    # The int4 kernels need their second copy of the weights: without it they take a many times slower way.
    frugal = precision != "int4" and is_large(source)
    if draft is None:
        measured = verify(source, plan, folder, bound=bound, frugal=frugal, dense=dense)
        record, cost = measured.record, artifact_cost(profile, source, plan, measured.cost)
        require_match(record, allow_mismatch=policy.allow_mismatch)
        if manifest.online is not None:
            gated = check_gates(source, profile, plan, manifest.online, folder, bound=bound, frugal=frugal).record
            require_match(gated, "model with FFNs skipped online", allow_mismatch=policy.allow_mismatch)
            record = record.model_copy(update={"passed": record.passed and gated.passed})
        return manifest.model_copy(update={"verification": record, "cost": cost})
    genai_model, genai_draft = genai_graphs(manifest.graph, draft)
    whole = verify(source, plan, folder, bound=bound, frugal=frugal, both=True, graphs=[genai_model], dense=dense)
    require_match(whole.record, allow_mismatch=policy.allow_mismatch)
    checks = (
        _check_exits(source, plan, exits, folder, genai_draft, bound=bound, frugal=frugal)
        if exits
        else _check_skip_plan(source, job.plan, folder, genai_draft, bound=bound, frugal=frugal)
    )
    passed, shares = whole.record.passed, []
    for name, check in checks:
        require_match(check.record, name, allow_mismatch=policy.allow_mismatch)
        passed &= check.record.passed
        shares.append(float((check.found == whole.found).mean()))
    return manifest.model_copy(
        update={
            "verification": whole.record.model_copy(update={"passed": passed}),
            "draft": _with_agreement(draft, shares),
            "cost": artifact_cost(profile, source, plan, whole.cost),
        }
    )


def check_gates(
    source: ModelSource,
    profile: Profile,
    plan: Plan,
    record: OnlineRecord,
    target: Path,
    *,
    bound: Bound,
    frugal: bool,
) -> Measurement:
    """Compare the artifact with half of its gates shut, scales as calibrated.

    Oracle: torch, with what the gates leave out left out by hooks too. It is the half that changes the stream least,
    as a request would choose, so the bound means what it means elsewhere.
    """
    statistics = {ffn: decoding_statistics(profile, ffn) for ffn in gated_ffns(record, plan.num_blocks)}
    likeliest = sorted(statistics, key=lambda ffn: statistics[ffn].similarity, reverse=True)
    shut = [Skip(ffn, statistics[ffn].scale) for ffn in likeliest[: (len(likeliest) + 1) // 2]]
    under = replace(plan, skips=tuple(sorted((*plan.skips, *shut), key=lambda skip: skip.sublayer)))
    return verify(source, under, target, bound=bound, frugal=frugal, gates=shut)


def _check_exits(
    source: ModelSource,
    plan: Plan,
    exits: Sequence[ExitDraft],
    target: Path,
    genai_draft: GraphRecord,
    *,
    bound: Bound,
    frugal: bool,
) -> Iterator[tuple[str, Measurement]]:
    """Yield name and check of every exit, run by the engine that drafts, and of `genai_draft` if that is another graph.

    Oracle: torch under `plan` and without the blocks after the exit, through the same adapter and rows of the head.
    """
    for number, cut in enumerate(exits):
        draft = DraftCheck(number, cut.chosen.adapter, cut.head.tokens)
        graphs = [genai_draft] if number == 0 and genai_draft.file == GENAI_DRAFT_FILE else []
        under = exit_plan(plan, cut.layer)
        measured = verify(source, under, target, bound=bound, frugal=frugal, draft=draft, graphs=graphs)
        yield f"draft after {cut.layer} blocks", measured


def _check_skip_plan(
    source: ModelSource, plan: Plan, target: Path, genai_draft: GraphRecord, *, bound: Bound, frugal: bool
) -> Iterator[tuple[str, Measurement]]:
    """Yield name and check of the graph with its gates shut, and of `genai_draft`.

    Oracle: torch under `plan` by hooks.
    """
    draft = DraftCheck()
    yield (
        "skip-plan draft",
        verify(source, plan, target, bound=bound, frugal=frugal, draft=draft, graphs=[genai_draft]),
    )


def _with_agreement(draft: DraftRecord, shares: Sequence[float]) -> DraftRecord:
    """Return the record with the shares of tokens that the drafts predict as the full model.

    Shares from calibration are kept: they are of more tokens.
    """
    if not draft.exits:
        return draft.model_copy(update={"agreement": shares[0]})
    exits = [
        found if found.agreement is not None else found.model_copy(update={"agreement": share})
        for found, share in zip(draft.exits, shares, strict=True)
    ]
    return draft.model_copy(update={"exits": exits})
