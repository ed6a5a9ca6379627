"""The export pipeline: open → resolve → bake → lower → check → record → appear whole under the name.

Every target goes the same way (`run_job`); what differs is in its folder, behind `job.ExportTarget`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeskip.core.locks import claim
from edgeskip.core.progress import Progress, Steps, silent
from edgeskip.exporters.job import export_job
from edgeskip.exporters.options import resolve_draft
from edgeskip.models.profile_source import check_weights, source_of
from edgeskip.profiles.vectors import read_vectors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgeskip.exporters.job import ExportJob, ExportResult, ExportTarget, Lowering
    from edgeskip.exporters.options import ExportOptions
    from edgeskip.profiles.schema import Profile
    from edgeskip.profiles.vectors import Vectors

STAGE = "exporting"


def run_export(
    profile: Profile,
    path: Path,
    output: Path,
    options: ExportOptions,
    *,
    model: str | None = None,
    vectors: Vectors | None = None,
    progress: Progress = silent,
) -> list[ExportResult]:
    """Export a profile's model, with its plan (dense if it has none), to every target of `options`.

    What cannot be is refused before any work, for all targets. Each artifact appears whole or not at all.

    Args:
        profile: The profile.
        path: Where the profile was read; its model and vectors may be relative to it.
        output: The folder or file to write. Several targets share a folder.
        options: What to export (`options.export_options`).
        model: The model instead of the one that the profile names: a name, a folder, a `.gguf` or a hub id.
        vectors: The profile's vectors; None reads the file beside `path`.
        progress: Called at every step, with the stage `exporting`.

    Returns:
        What was written, in the order of the targets; a pair of GGUF files gives two results.

    Raises:
        EdgeSkipError: If the options do not fit the profile or the model, an output may not be written, or an
            artifact does not match the torch model.
    """
    targets = targets_of(options)
    policy = options.policy
    places = [target.place(output, policy, alone=len(targets) == 1) for target in targets]
    draft = resolve_draft(options.draft, profile) if options.draft else None
    source = source_of(profile, path, model)
    vectors = read_vectors(profile, path) if vectors is None else vectors
    steps = Steps(progress, STAGE)
    job = export_job(
        source, profile, vectors, output, draft=draft, online=options.online, policy=policy, step=steps.begin
    )
    lowerings = [_prepared(target, replace(job, output=place)) for target, place in zip(targets, places, strict=True)]
    steps.total = sum(lowering.steps for lowering in lowerings)
    results: list[ExportResult] = []
    # Only now: claiming an output makes the folders above it.
    with claim(*(path for lowering in lowerings for path in lowering.paths)):
        for lowering in lowerings:
            results += _finished(lowering, job)
    steps.finish()
    return results


def run_job(target: ExportTarget, job: ExportJob) -> list[ExportResult]:
    """Export to one target.

    Raises:
        EdgeSkipError: If the profile is for other weights, the target cannot hold the plan, the output may not be
            written, or the result does not match the torch model; then nothing at the output has changed.
    """
    return _finished(_prepared(target, job), job)


def targets_of(options: ExportOptions) -> list[ExportTarget]:
    """Return the targets that `options` names. Adding a target is one folder and one line here.

    Raises:
        EdgeSkipError: If a target does not have the precision.
    """
    from edgeskip.exporters.gguf.target import GgufTarget
    from edgeskip.exporters.onnx.target import OnnxTarget

    kinds: dict[str, Callable[[ExportOptions], ExportTarget]] = {
        "onnx": OnnxTarget.from_options,
        "gguf": GgufTarget.from_options,
    }
    return [kinds[name](options) for name in options.precisions]


def _prepared(target: ExportTarget, job: ExportJob) -> Lowering[Any, Any]:
    check_weights(job.source, job.profile)
    return target.prepare(job)


def _finished(lowering: Lowering[Any, Any], job: ExportJob) -> list[ExportResult]:
    with lowering.staged() as staged:
        record = lowering.write(staged)
        if job.policy.check:
            job.step("check")
            record = lowering.check(staged, record)
            lowering.seal(staged, record)
    return lowering.results(record)
