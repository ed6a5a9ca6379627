"""The ONNX target: an artifact folder with graphs over one weight file, side files and a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.artifacts.manifest import DraftRecord, GraphRecord, Manifest
from edgeskip.artifacts.path_errors import MANIFEST_NAME
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import refuse_folder, sha256_of, staged_folder
from edgeskip.core.plan import Plan
from edgeskip.core.requirements import onnxruntime_builds
from edgeskip.exporters.bake import bake
from edgeskip.exporters.draft import exit_draft
from edgeskip.exporters.importance import importance_of
from edgeskip.exporters.job import ExportResult
from edgeskip.exporters.online import gated_ffns, online_record
from edgeskip.exporters.onnx.check import check_artifact
from edgeskip.exporters.onnx.drafts import lower_early_exit, lower_skip_plan
from edgeskip.exporters.onnx.formats import weight_format
from edgeskip.exporters.onnx.lower import lower
from edgeskip.exporters.onnx.sidecars import write_sidecars
from edgeskip.exporters.provenance import inputs_of, now, plan_label, plan_summary, software_versions
from edgeskip.exporters.split import parts_of
from edgeskip.planning.dense_cost import artifact_cost
from edgeskip.runtime.engines.onnxruntime.attention_limits import refuse_head_size

if TYPE_CHECKING:
    from edgeskip.artifacts.manifest import OnlineRecord
    from edgeskip.core.sublayers import Sublayer
    from edgeskip.exporters.draft import ExitDraft
    from edgeskip.exporters.job import ExportJob
    from edgeskip.exporters.onnx.formats import WeightFormat
    from edgeskip.exporters.options import ExportOptions, ExportPolicy
    from edgeskip.models.decoder import Decoder
    from edgeskip.models.source import ModelSource
    from edgeskip.profiles.schema import Profile


@dataclass(frozen=True)
class OnnxTarget:
    """ONNX graphs whose weights are stored in `form`; an `exporters.job.ExportTarget`."""

    form: WeightFormat
    name: str = "onnx"

    @classmethod
    def from_options(cls, options: ExportOptions) -> OnnxTarget:
        """Return the target with the options' precision.

        Raises:
            EdgeSkipError: If the precision or one of int4's numbers is unknown.
        """
        return cls(weight_format(options.precisions["onnx"] or "fp32", **asdict(options.int4)))

    def place(self, output: Path, policy: ExportPolicy, *, alone: bool) -> Path:
        """Return the folder to write: `output`, or its folder `onnx` beside other targets."""
        folder = output if alone else output / "onnx"
        refuse_output(folder, overwrite=policy.overwrite)
        return folder

    def prepare(self, job: ExportJob) -> OnnxLowering:
        """Bake the plan, and refuse what ONNX Runtime cannot run or cannot be written."""
        refuse_output(job.output, overwrite=job.policy.overwrite)
        profile, plan = job.profile, job.plan
        if job.draft and job.draft.kind == "skip-plan":
            if plan.compensation == "linear":
                raise EdgeSkipError(
                    "--draft skip-plan cannot switch off a linear compensation, which is in the weights: plan with "
                    "--compensation affine"
                )
            # The model is dense, and the plan is what drafts.
            profile, plan = profile.model_copy(update={"plan": None}), Plan(plan.num_blocks)
        refuse_head_size(job.source.decoder, plan.skipped)
        gates = online_record(job.online, profile, plan) if job.online else None
        gated = gated_ffns(gates, plan.num_blocks)
        baked = bake(job.source.decoder, plan, shifts_apart=gated)
        return OnnxLowering(job, self.form, profile, plan, baked, gates, gated, _exits(job, baked))


@dataclass(frozen=True)
class OnnxLowering:
    """An artifact folder under way; an `exporters.job.Lowering` of a folder and its manifest.

    Attributes:
        job: What is exported.
        form: How the weights are stored.
        profile: The job's, without its plan if that is what drafts.
        plan: What the whole model skips.
        decoder: The model with `plan` baked in.
        gates: What is recorded of FFNs that may be skipped online; None without.
        gated: These FFNs.
        exits: The exits of an early-exit draft, shallow first.
    """

    job: ExportJob
    form: WeightFormat
    profile: Profile
    plan: Plan
    decoder: Decoder
    gates: OnlineRecord | None
    gated: Sequence[Sublayer]
    exits: Sequence[ExitDraft]

    @property
    def paths(self) -> list[Path]:
        return [self.job.output]

    @property
    def steps(self) -> int:
        # Apart from the sublayers: embedding, head, draft, int4's importance, check.
        extra = 2 + (self.job.draft is not None) + self.form.quantized + self.job.policy.check
        return len(self.decoder.sublayers) + extra

    def staged(self) -> AbstractContextManager[Path]:
        refuse_output(self.job.output, overwrite=self.job.policy.overwrite)  # what was claimed may be there now
        return staged_folder(self.job.output, overwrite=self.job.policy.overwrite)

    def write(self, staged: Path) -> Manifest:
        job, form = self.job, self.form
        job.source.write_tokenizer(staged)
        if form.quantized:
            job.step("importance")
            form = replace(form, importance=importance_of(job.source, self.plan))
        draft: DraftRecord | None = None
        if self.exits:
            graph, draft = lower_early_exit(self.decoder, form, staged, self.exits, step=job.step)
        elif job.draft:
            graph = lower_skip_plan(self.decoder, job.plan, form, staged, step=job.step)
            draft = DraftRecord(kind="skip-plan", plan=plan_summary(job.profile))
        else:
            graph = lower(self.decoder, form, staged, online=self.gated, step=job.step)
        write_sidecars(job.source, graph, staged, draft)
        cost = artifact_cost(self.profile, job.source, self.plan, None)
        manifest = unchecked_manifest(job.source, self.profile, graph, staged, draft)
        manifest = manifest.model_copy(update={"online": self.gates, "cost": cost})
        # The engine that the check runs reads the manifest.
        write_manifest(manifest, staged)
        return manifest

    def check(self, staged: Path, record: Manifest) -> Manifest:
        return check_artifact(self.job, self.profile, self.plan, self.exits, record, staged)

    def seal(self, staged: Path, record: Manifest) -> None:
        write_manifest(record, staged)

    def results(self, record: Manifest) -> list[ExportResult]:
        return [ExportResult("onnx", self.job.output, record)]


def refuse_output(folder: Path, *, overwrite: bool) -> None:
    """Raise EdgeSkipError if an artifact must not be written to `folder`; call it before the work as well.

    Only an artifact or an empty folder is ever replaced: a model's own folder, for example, is not.
    """
    if folder.suffix.lower() == ".gguf" and folder.is_file():
        raise EdgeSkipError(f"{folder} is a file, but --target onnx writes a folder: add --target gguf, or change -o")
    refuse_folder(folder, overwrite=overwrite)
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST_NAME).is_file():
        raise EdgeSkipError(f"{folder} is not an EdgeSkip artifact, so it is not replaced: choose another -o")


def _exits(job: ExportJob, decoder: Decoder) -> list[ExitDraft]:
    """Return the exits that an early-exit draft of the baked `decoder` has; none for another draft."""
    draft = job.draft
    if draft is None or draft.kind != "early-exit":
        return []
    parts_of(decoder, draft.exit_layers)  # refuses a part without sublayers
    exits = [exit_draft(job, decoder, layer) for layer in draft.exit_layers]
    if plan_label(job.profile) == "dense":
        return exits
    # Agreements were measured on the dense model.
    return [replace(cut, chosen=replace(cut.chosen, agreement=None)) for cut in exits]


def unchecked_manifest(
    source: ModelSource, profile: Profile, graph: GraphRecord, folder: Path, draft: DraftRecord | None = None
) -> Manifest:
    """Return the manifest of the artifact in `folder`, not checked yet."""
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


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write the manifest into an artifact's folder."""
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
