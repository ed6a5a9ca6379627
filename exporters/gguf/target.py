"""The GGUF target: files for llama.cpp, each with its manifest among its metadata."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.artifacts.gguf.header import read_gguf_header
from edgeskip.artifacts.gguf.manifest import COST_KEY, DRAFT_VERIFICATION_KEY, VERIFICATION_KEY, GgufManifest
from edgeskip.artifacts.gguf.seal import SEAL_KEY, UNSEALED, seal_gguf
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import refuse_file, staged_files
from edgeskip.exporters.gguf.blocks import check_scalable
from edgeskip.exporters.gguf.check import check_files
from edgeskip.exporters.gguf.formats import GgufFormat, format_for
from edgeskip.exporters.gguf.metadata import file_metadata
from edgeskip.exporters.gguf.output_plan import OutputFile, PairExit, output_paths, plan_outputs
from edgeskip.exporters.gguf.quantize import check_quantizer, quantize_file
from edgeskip.exporters.gguf.tensors import NamedTensor, named_tensors
from edgeskip.exporters.gguf.text_rules import gguf_text
from edgeskip.exporters.gguf.write import patch_string, write_gguf, write_head_file
from edgeskip.exporters.importance import HEAD_WEIGHT, Importance, importance_of
from edgeskip.exporters.job import ExportResult
from edgeskip.exporters.online import window_of
from edgeskip.exporters.provenance import inputs_of, now, plan_label, plan_summary, software_versions
from edgeskip.planning.dense_cost import artifact_cost
from edgeskip.runtime.engines.llamacpp.library import llama

if TYPE_CHECKING:
    from edgeskip.core.plan import Plan
    from edgeskip.exporters.job import ExportJob
    from edgeskip.exporters.options import ExportOptions, ExportPolicy


@dataclass(frozen=True)
class GgufTarget:
    """GGUF files of one precision; an `exporters.job.ExportTarget`.

    Attributes:
        precision: Its name, as in `gguf.formats`; None = what costs the model least.
        form: The format itself, if it is known already.
    """

    precision: str | None = None
    form: GgufFormat | None = None
    name: str = "gguf"

    @classmethod
    def from_options(cls, options: ExportOptions) -> GgufTarget:
        """Return the target with the options' precision; it depends on the model whether it can be."""
        return cls(options.precisions["gguf"])

    def place(self, output: Path, policy: ExportPolicy, *, alone: bool) -> Path:
        """Return `output`: a file, or a folder that gets the ecosystem's file names."""
        if not alone and output.suffix.lower() == ".gguf" and not output.is_dir():
            raise EdgeSkipError(f"two targets need a folder, but {output} is a file name: give -o a folder")
        return output

    def prepare(self, job: ExportJob) -> GgufLowering:
        """Bake the plan, and refuse what llama.cpp cannot hold or what could not be written or checked."""
        form = self.form or format_for(job.source, self.precision)
        if form.by_llamacpp:
            check_quantizer()
        elif job.policy.check:
            llama()
        paths = output_paths(job, form)
        _refuse_targets(job, paths)
        files, cut = plan_outputs(job)
        if form.kind is None:
            for named in (named for file in files for named in named_tensors(file.decoder, file.layout)):
                if named.tensor.blocks is not None and len(named.tensor.shape) > 1:  # vectors become F32
                    check_scalable(named.tensor.blocks, named.name)
        return GgufLowering(job, form, files, cut, paths[:1] if len(files) == 1 else paths)


@dataclass(frozen=True)
class GgufLowering:
    """GGUF files under way; an `exporters.job.Lowering` of staged files and their manifests.

    Attributes:
        job: What is exported.
        form: How the weights are stored.
        files: The models: one, the halves of an early exit, or a model and the one beside it.
        cut: The exit of a pair.
        paths: Where the files go; a trimmed head has one more than there are models.
    """

    job: ExportJob
    form: GgufFormat
    files: Sequence[OutputFile]
    cut: PairExit | None
    paths: Sequence[Path]

    @property
    def steps(self) -> int:
        blocks = sum(len(file.layout.blocks) for file in self.files)
        # A pair has one plan, whose importance is measured once.
        importances = 1 if self.cut else len(self.files)
        return blocks + self.form.by_llamacpp * (importances + len(self.files)) + self.job.policy.check

    def staged(self) -> AbstractContextManager[list[Path]]:
        _refuse_targets(self.job, self.paths)  # what was claimed may be there now
        return staged_files(self.paths, overwrite=self.job.policy.overwrite)

    def write(self, staged: list[Path]) -> list[GgufManifest]:
        trimmed = self.cut is not None and self.cut.tokens is not None
        head_sha256 = write_head_file(staged[2], self.cut.draft.head) if self.cut and trimmed else None
        manifests = [self._manifest(number, head_sha256) for number in range(len(self.files))]
        if self.job.online is not None:
            takes_over = {
                "draft": None,
                "decode": self.paths[1].name,
                "decode_plan": manifests[1].plan,
                "window": window_of(self.job.online, self.job.profile),
            }
            manifests[0] = manifests[0].model_copy(update=takes_over)
        self._write_files(staged, manifests)
        return manifests

    def check(self, staged: list[Path], record: list[GgufManifest]) -> list[GgufManifest]:
        checked = check_files(self.job, self.form, self.files, self.cut, staged, record)
        # The files have room for what is written here, and nothing else about them changes.
        for path, before, after in zip(staged, record, checked, strict=False):
            old, new = before.to_metadata(), after.to_metadata()
            for key in (VERIFICATION_KEY, DRAFT_VERIFICATION_KEY, COST_KEY):
                if new.get(key) != old.get(key):
                    patch_string(path, key, old[key], new[key])
        return checked

    def seal(self, staged: list[Path], record: list[GgufManifest]) -> None:
        for path, _ in zip(staged, record, strict=False):
            seal_gguf(path)

    def results(self, record: list[GgufManifest]) -> list[ExportResult]:
        return [
            ExportResult("gguf", path, manifest, file.layout.architecture)
            for path, file, manifest in zip(self.paths, self.files, record, strict=False)
        ]

    def _manifest(self, number: int, head_sha256: str | None) -> GgufManifest:
        """Return the manifest of one of the files, not checked yet."""
        source, form, cut, file = self.job.source, self.form, self.cut, self.files[number]
        names = [path.name for path in self.paths]
        text = gguf_text(source)
        manifest = GgufManifest(
            text=text.rules,
            notes=text.notes,
            label="draft-only" if file.part == "first" else plan_label(file.profile),
            part=file.part,
            exit_layer=cut.layer if cut else None,
            partner=names[1 - number] if cut and len(names) > 1 else None,
            draft=names[1] if cut is None and number == 0 and len(names) > 1 else None,
            precision=form.name,
            model=source.record(),
            plan=plan_summary(file.profile),
            cost=None if cut and len(names) == 1 else artifact_cost(file.profile, source, file.plan, None),
            inputs=inputs_of(source, file.profile, importance=form.by_llamacpp),
            versions=software_versions("gguf", "torch", "transformers")
            | (software_versions("llama-cpp-python") if form.by_llamacpp else {}),
            created=now(),
        )
        if cut is None or file.part != "first":
            return manifest
        drafts = {
            "head": cut.draft.chosen.kind,
            "agreement": cut.draft.chosen.agreement,
            "draft_head": names[2] if head_sha256 else None,
            "draft_head_sha256": head_sha256,
        }
        return manifest.model_copy(update=drafts)

    def _write_files(self, staged: list[Path], manifests: list[GgufManifest]) -> None:
        source, form, step = self.job.source, self.form, self.job.step
        own_head = self.cut is not None and self.cut.own_head is not None
        importance: Importance = {}
        measured: Plan | None = None
        embedding_type: int | None = None
        # The first half comes last: what the rest's head became is what its embedding must be.
        for file, path, manifest in reversed(list(zip(self.files, staged, manifests, strict=False))):
            if form.by_llamacpp and file.plan is not measured:
                step("importance")
                importance, measured = importance_of(source, file.plan), file.plan
            metadata = file_metadata(
                source, file.decoder, file.layout, form.file_type, {**manifest.to_metadata(), SEAL_KEY: UNSEALED}
            )
            tensors = named_tensors(file.decoder, file.layout)
            written = path.with_name(f"f16-{path.name}") if form.by_llamacpp else path
            write_gguf(written, file.layout.architecture, metadata, tensors, form, step=step)
            if form.by_llamacpp:
                step("quantize")
                tied = source.decoder.head is None
                by_name = _by_name(importance, tensors, tied=tied, folded=file.part == "first" and own_head)
                quantize_file(written, path, form.file_type, by_name, embedding_type=embedding_type)
                written.unlink()
                if file.part == "rest" and tied and own_head:
                    embedding_type = int(read_gguf_header(path).tensors["token_embd.weight"].type)
            seal_gguf(path)


def _refuse_targets(job: ExportJob, targets: Sequence[Path]) -> None:
    for target in targets:
        if any(target.exists() and target.samefile(file) for file in job.source.checkpoint.files):
            raise EdgeSkipError(f"{target} is the model itself, so it is not replaced: choose another -o")
        refuse_file(target, overwrite=job.policy.overwrite)


def _by_name(importance: Importance, tensors: list[NamedTensor], *, tied: bool, folded: bool) -> Importance:
    """Return the importances under the file's names; an embedding has one if the model's head is the same matrix.

    A head that a map is `folded` into has none: its inputs are not those of the model's head.
    """
    heads = {"token_embd.weight"} if tied or not any(named.name == "output.weight" for named in tensors) else set()
    if not folded:
        heads.add("output.weight")
    keys = {named.name: HEAD_WEIGHT if named.name in heads else named.tensor.name for named in tensors}
    return {name: importance[key] for name, key in keys.items() if key in importance}
