"""Exports a profile's model to an artifact folder: bake, lower, side files, check, manifest, rename into place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.artifacts.manifest import DraftRecord, GraphRecord, Manifest, VerificationRecord
from edgeskip.artifacts.path_errors import MANIFEST_NAME
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import refuse_folder, sha256_of, staged_folder
from edgeskip.core.requirements import onnxruntime_builds
from edgeskip.exporters.bake import bake
from edgeskip.exporters.importance import importance_of
from edgeskip.exporters.provenance import (
    inputs_of,
    now,
    plan_label,
    plan_summary,
    software_versions,
)
from edgeskip.exporters.verify import BOUNDS, verify
from edgeskip.models.profile_source import check_weights
from edgeskip.models.source import is_large
from edgeskip.planning.dense_cost import artifact_cost, dense_source
from edgeskip.planning.planner import resolve

if TYPE_CHECKING:
    from edgeskip.core.plan import Plan
    from edgeskip.exporters.onnx.drafts import Exit
    from edgeskip.exporters.onnx.formats import WeightFormat
    from edgeskip.exporters.options import DraftRequest, OnlineRequest
    from edgeskip.models.decoder import Decoder
    from edgeskip.models.source import ModelSource
    from edgeskip.profiles.schema import Profile
    from edgeskip.profiles.vectors import Vectors

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ExportPolicy:
    """How an export is checked and where it may write."""

    overwrite: bool = False
    check: bool = True
    allow_mismatch: bool = False


def require_match(record: VerificationRecord, policy: ExportPolicy, what: str = "exported model") -> None:
    """EdgeSkipError where the check failed and the policy does not allow that."""
    if not record.passed and not policy.allow_mismatch:
        widened = record.widened_kl_divergence
        twin = "" if widened is None else f" ({widened:.3g} widened)"
        raise EdgeSkipError(
            f"the {what} does not match the torch model: max |Δlogit| {record.max_abs_logit_difference:.3g}, "
            f"KL {record.kl_divergence:.3g}{twin}, top-1 agreement {record.top1_agreement:.1%}, wanted {record.bound}: "
            "report this and try another --precision, or add --allow-mismatch to keep it"
        )


def refuse_output(folder: Path, *, overwrite: bool) -> None:
    """EdgeSkipError where an artifact must not be written to `folder`; call it before the work as well.

    Only an artifact or an empty folder is ever replaced: a model's own folder, say, is not.
    """
    if folder.suffix.lower() == ".gguf" and folder.is_file():
        raise EdgeSkipError(f"{folder} is a file, and --target onnx writes a folder: add --target gguf, or change -o")
    refuse_folder(folder, overwrite=overwrite)
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST_NAME).is_file():
        raise EdgeSkipError(f"{folder} is not an artifact of EdgeSkip, so it is not replaced: choose another -o")


def export_onnx(
    source: ModelSource,
    profile: Profile,
    vectors: Vectors | None,
    form: WeightFormat,
    folder: Path,
    *,
    draft: DraftRequest | None = None,
    online: OnlineRequest | None = None,
    policy: ExportPolicy = ExportPolicy(),
    progress: Progress = lambda _: None,
) -> Manifest:
    """Writes the artifact `folder` for the profile's plan (dense where it has none) and returns its manifest.

    With a skip-plan `draft` (settled) the model is dense and the plan is what drafts. `online`, without a draft only:
    FFNs that the plan keeps may be skipped while it runs. EdgeSkipError where the profile is for other weights,
    `folder` may not be written, or the result does not match the torch model; then `folder` is as it was.
    """
    from edgeskip.exporters.online import gated_ffns, online_record
    from edgeskip.exporters.onnx.drafts import lower_early_exit, lower_skip_plan
    from edgeskip.exporters.onnx.lower import lower
    from edgeskip.exporters.onnx.sidecars import write_sidecars
    from edgeskip.runtime.engines.onnxruntime.attention_limits import refuse_head_size

    refuse_output(folder, overwrite=policy.overwrite)
    check_weights(source, profile)
    skipping, drafting = plan_summary(profile), resolve(profile, vectors)
    if draft and draft.kind == "skip-plan":
        if profile.plan and profile.plan.compensation == "linear":
            raise EdgeSkipError(
                "--draft skip-plan cannot switch off a linear compensation, which is in the weights: plan with "
                "--compensation affine"
            )
        profile = profile.model_copy(update={"plan": None})
    plan = resolve(profile, vectors)
    refuse_head_size(source.decoder, plan.skipped)
    gates = online_record(online, profile, plan) if online else None
    gated = gated_ffns(gates, plan.num_blocks)
    baked = bake(source.decoder, plan, shifts_apart=gated)
    exits = _exits(source, baked, profile, vectors, draft) if draft else []
    with staged_folder(folder, overwrite=policy.overwrite) as staging:
        source.write_tokenizer(staging)
        if form.quantised:
            progress("importance")
            form = replace(form, importance=importance_of(source, plan))
        record: DraftRecord | None = None
        if exits:
            graph, record = lower_early_exit(baked, form, staging, exits, progress=progress)
        elif draft:
            graph = lower_skip_plan(baked, drafting, form, staging, progress=progress)
            record = DraftRecord(kind="skip-plan", plan=skipping)
        else:
            graph = lower(baked, form, staging, online=gated, progress=progress)
        write_sidecars(source, graph, staging, record)
        manifest = _manifest(source, profile, graph, staging, record)
        manifest = manifest.model_copy(update={"online": gates, "cost": artifact_cost(profile, source, plan, None)})
        if policy.check:
            progress("check")
            # The engine reads the manifest, so a first one is there during the check.
            _write_manifest(manifest, staging)
            manifest = _checked(source, profile, plan, drafting, exits, manifest, staging, policy)
        _write_manifest(manifest, staging)
    return manifest


def _exits(
    source: ModelSource, decoder: Decoder, profile: Profile, vectors: Vectors | None, draft: DraftRequest
) -> list[Exit]:
    """The exits that an early-exit draft of `decoder` has, each with its head. None for another draft."""
    from edgeskip.exporters.draft_head import chosen_head, draft_head, draft_tokens
    from edgeskip.exporters.exit_block import exit_block
    from edgeskip.exporters.onnx.drafts import Exit
    from edgeskip.exporters.split import parts_of

    if draft.kind != "early-exit":
        return []
    parts_of(decoder, draft.exit_layers)
    tokens = draft_tokens(source, vectors, draft.vocabulary)
    exits = []
    for layer in draft.exit_layers:
        chosen = chosen_head(profile, vectors, layer)
        if plan_label(profile) != "dense":  # measured on the dense model
            chosen = replace(chosen, agreement=None)
        exit_map = chosen.adapter.map if chosen.adapter else None
        block = exit_block(source, chosen.adapter, resolve(profile, vectors), layer)
        exits.append(Exit(layer, draft_head(decoder, exit_map, tokens, block=block), chosen))
    return exits


def _checked(
    source: ModelSource,
    profile: Profile,
    plan: Plan,
    drafting: Plan,
    exits: list[Exit],
    manifest: Manifest,
    folder: Path,
    policy: ExportPolicy,
) -> Manifest:
    """The manifest with what the check measured: the whole model under `plan`, and every draft or the gates.

    Of these one that fails and is allowed to counts as the whole's failure. EdgeSkipError where it is not allowed to.
    """
    precision, draft = manifest.graph.precision, manifest.draft
    # A dense artifact in floating point loses what the check itself measures.
    dense = dense_source(profile, source, plan) if plan.skips or precision == "int4" else None
    bound = BOUNDS[precision]
    # The int4 kernels need their second copy: without it they take another, many times slower way.
    frugal = precision != "int4" and is_large(source)
    if draft is None:
        measured = verify(source, plan, folder, bound=bound, frugal=frugal, dense=dense)
        record, cost = measured.record, artifact_cost(profile, source, plan, measured.cost)
        require_match(record, policy)
        if manifest.online is not None:
            from edgeskip.exporters.online import check_gates

            gated = check_gates(source, profile, plan, manifest.online, folder, bound=bound, frugal=frugal).record
            require_match(gated, policy, "model with FFNs skipped online")
            record = record.model_copy(update={"passed": record.passed and gated.passed})
        return manifest.model_copy(update={"verification": record, "cost": cost})
    from edgeskip.exporters.draft_checks import check_exits, check_skip_plan
    from edgeskip.exporters.onnx.drafts import genai_graphs

    genai_model, genai_draft = genai_graphs(manifest.graph, draft)
    whole = verify(source, plan, folder, bound=bound, frugal=frugal, both=True, graphs=[genai_model], dense=dense)
    require_match(whole.record, policy)
    checks = (
        check_exits(source, plan, exits, folder, genai_draft, bound=bound, frugal=frugal)
        if exits
        else check_skip_plan(source, drafting, folder, genai_draft, bound=bound, frugal=frugal)
    )
    passed, shares = whole.record.passed, []
    for name, check in checks:
        require_match(check.record, policy, name)
        passed &= check.record.passed
        shares.append(float((check.found == whole.found).mean()))
    return manifest.model_copy(
        update={
            "verification": whole.record.model_copy(update={"passed": passed}),
            "draft": _with_agreement(draft, shares),
            "cost": artifact_cost(profile, source, plan, whole.cost),
        }
    )


def _with_agreement(draft: DraftRecord, shares: list[float]) -> DraftRecord:
    """The record with the shares of tokens that the drafts predict as the full model; calibration's go first, as these
    are of fewer tokens."""
    if not draft.exits:
        return draft.model_copy(update={"agreement": shares[0]})
    exits = [
        found if found.agreement is not None else found.model_copy(update={"agreement": share})
        for found, share in zip(draft.exits, shares, strict=True)
    ]
    return draft.model_copy(update={"exits": exits})


def _manifest(
    source: ModelSource, profile: Profile, graph: GraphRecord, folder: Path, draft: DraftRecord | None = None
) -> Manifest:
    """The manifest of an artifact that is not checked yet."""
    return Manifest(
        label=plan_label(profile),
        model=source.record(),
        graph=graph,
        plan=plan_summary(profile),
        draft=draft,
        inputs=inputs_of(source, profile, importance=bool(graph.quantisation)),
        files={
            path.name: sha256_of(path)
            for path in sorted(folder.iterdir())
            if path.is_file() and path.name != MANIFEST_NAME
        },
        versions=software_versions("onnx-ir", "torch", "transformers") | onnxruntime_builds(),
        created=now(),
        verification=None,
    )


def _write_manifest(manifest: Manifest, folder: Path) -> None:
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
