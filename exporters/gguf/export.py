"""Exports a profile's model to GGUF files for llama.cpp: bake, lay out, write, check, rename into place."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.artifacts.gguf.header import read_gguf_header
from edgeskip.artifacts.gguf.manifest import COST_KEY, DRAFT_VERIFICATION_KEY, VERIFICATION_KEY, GgufManifest
from edgeskip.artifacts.gguf.seal import SEAL_KEY, UNSEALED, seal_gguf
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import refuse_file, staged_files
from edgeskip.exporters.gguf.blocks import check_scalable
from edgeskip.exporters.gguf.dequantize import widen
from edgeskip.exporters.gguf.formats import GgufFormat
from edgeskip.exporters.gguf.head_file import write_head_file
from edgeskip.exporters.gguf.metadata import context_length, file_metadata
from edgeskip.exporters.gguf.output_plan import Exit, Output, output_paths, outputs_of
from edgeskip.exporters.gguf.quantize import check_quantiser, quantise
from edgeskip.exporters.gguf.tensors import NamedTensor, named_tensors
from edgeskip.exporters.gguf.text_rules import gguf_text
from edgeskip.exporters.gguf.write import patch_string, write_gguf
from edgeskip.exporters.importance import HEAD_WEIGHT, Importance, importance_of
from edgeskip.exporters.online import window_of
from edgeskip.exporters.onnx.export import ExportPolicy, require_match
from edgeskip.exporters.provenance import (
    inputs_of,
    now,
    plan_label,
    plan_summary,
    software_versions,
)
from edgeskip.exporters.split import exiting
from edgeskip.exporters.verify import Bound, DraftCheck, Measured, Twin, verify
from edgeskip.models.profile_source import check_weights
from edgeskip.planning.dense_cost import artifact_cost, dense_source
from edgeskip.runtime.engines.llamacpp.library import llama

if TYPE_CHECKING:
    from edgeskip.core.plan import Plan
    from edgeskip.exporters.options import DraftRequest, OnlineRequest
    from edgeskip.models.source import ModelSource
    from edgeskip.profiles.schema import Profile
    from edgeskip.profiles.vectors import Vectors

Progress = Callable[[str], None]


@dataclass(frozen=True)
class GgufFile:
    """A file that was written and what it says of itself."""

    path: Path
    architecture: str
    manifest: GgufManifest


EXACT = Bound(kl_divergence=1e-3)
OWN_HEAD = Bound(
    kl_divergence=1e-2
)  # of a draft's matrices: a head that has no stored blocks to keep and becomes Q8_0: SmolLM2's 6e-4


def bound_of(form: GgufFormat) -> Bound:
    """What passes the check. llama.cpp rounds activations to 8 bits wherever weights are quantised (0.0026 nats for a
    dense Q4_1 SmolLM2, 0.05 where a plan leaves out its first FFN), and a quantisation of ours moves the weights too.
    """
    if form.kind in ("F32", "F16") and not form.by_llamacpp:
        return EXACT
    if form.name.startswith(("Q2", "Q3")):
        return Bound(kl_divergence=2.0)
    return Bound(kl_divergence=0.25 if form.kind is None or form.name in ("BF16", "Q8_0", "Q6_K") else 0.75)


def refuse_outputs(
    source: ModelSource,
    profile: Profile,
    vectors: Vectors | None,
    form: GgufFormat,
    output: Path,
    *,
    draft: DraftRequest | None = None,
    online: OnlineRequest | None = None,
    policy: ExportPolicy,
    folder: bool = False,
) -> None:
    """EdgeSkipError where llama.cpp cannot hold the plan, or the export cannot be written or checked: before any work.

    `folder`: `output` is to hold other things besides.
    """
    if folder and output.suffix.lower() == ".gguf" and not output.is_dir():
        raise EdgeSkipError(f"two targets need a folder: give -o one, not {output}")
    if form.by_llamacpp:
        check_quantiser()
    elif policy.check:
        llama()
    over = online is not None
    _refuse_targets(source, output_paths(source, profile, form, output, draft, online=over), policy)
    check_weights(source, profile)
    files, _ = outputs_of(source, profile, vectors, draft, online=over)
    if form.kind is None:
        for named in (named for file in files for named in named_tensors(file.decoder, file.layout)):
            if named.tensor.blocks is not None and len(named.tensor.shape) > 1:  # vectors become F32
                check_scalable(named.tensor.blocks, named.name)


def export_gguf(
    source: ModelSource,
    profile: Profile,
    vectors: Vectors | None,
    form: GgufFormat,
    output: Path,
    *,
    draft: DraftRequest | None = None,
    online: OnlineRequest | None = None,
    policy: ExportPolicy,
    progress: Progress = lambda _: None,
) -> list[GgufFile]:
    """Writes the file for the profile's plan (dense where it has none), or the two of a settled `draft`: the halves of
    an early exit, or the dense model and the plan's, which drafts for it. `online`, without a draft only: the plan's
    and one without the FFNs of its decode set, which takes over after P tokens. Returns the GGUF files written.

    Where llama.cpp has no architecture for the first half's stub, the first part is written alone: a draft model.
    EdgeSkipError where the profile is for other weights, llama.cpp cannot hold the plan, an output may not be written
    or the result does not match the torch model; then nothing has changed.
    """
    over = online is not None
    targets = output_paths(source, profile, form, output, draft, online=over)
    _refuse_targets(source, targets, policy)
    check_weights(source, profile)
    files, cut = outputs_of(source, profile, vectors, draft, online=over)
    if len(files) == 1:
        targets = targets[:1]
    with staged_files(targets, overwrite=policy.overwrite) as staged:
        head_sha256 = write_head_file(staged[2], cut.head) if cut and cut.head.tokens is not None else None
        names = [path.name for path in targets]
        manifests = [
            _manifest(source, file, form, names, number, cut, head_sha256) for number, file in enumerate(files)
        ]
        if online is not None:
            over_there = {"decode": names[1], "decode_plan": manifests[1].plan, "window": window_of(online, profile)}
            manifests[0] = manifests[0].model_copy(update={"draft": None, **over_there})
        _write_all(source, files, form, staged, manifests, cut, progress)
        if policy.check:
            progress("check")
            checked = _check(source, files, form, staged, manifests, cut, policy)
            for path, before, after in zip(staged, manifests, checked, strict=False):
                old, new = before.to_metadata(), after.to_metadata()
                for key in (VERIFICATION_KEY, DRAFT_VERIFICATION_KEY, COST_KEY):
                    if new.get(key) != old.get(key):
                        patch_string(path, key, old[key], new[key])
                seal_gguf(path)
            manifests = checked
    return [
        GgufFile(path, file.layout.architecture, manifest)
        for path, file, manifest in zip(targets, files, manifests, strict=False)
    ]


def _refuse_targets(source: ModelSource, targets: list[Path], policy: ExportPolicy) -> None:
    for target in targets:
        if any(target.exists() and target.samefile(file) for file in source.checkpoint.files):
            raise EdgeSkipError(f"{target} is the model itself, so it is not replaced: choose another -o")
        refuse_file(target, overwrite=policy.overwrite)


def _manifest(
    source: ModelSource,
    file: Output,
    form: GgufFormat,
    names: list[str],
    number: int,
    cut: Exit | None,
    head_sha256: str | None,
) -> GgufManifest:
    """The manifest of the file `names[number]`, not checked yet; `names` are those of everything that is written."""
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
        "head": cut.chosen.kind,
        "agreement": cut.chosen.agreement,
        "draft_head": names[2] if head_sha256 else None,
        "draft_head_sha256": head_sha256,
    }
    return manifest.model_copy(update=drafts)


def _write_all(
    source: ModelSource,
    files: list[Output],
    form: GgufFormat,
    staged: list[Path],
    manifests: list[GgufManifest],
    cut: Exit | None,
    progress: Progress,
) -> None:
    importance: Importance = {}
    measured: Plan | None = None
    embedding_type: int | None = None
    # The first half comes last: what the rest's head became is what its embedding must be.
    for file, path, manifest in reversed(list(zip(files, staged, manifests, strict=False))):
        if form.by_llamacpp and file.plan is not measured:
            progress("importance")
            importance, measured = importance_of(source, file.plan), file.plan
        metadata = file_metadata(
            source, file.decoder, file.layout, form.file_type, {**manifest.to_metadata(), SEAL_KEY: UNSEALED}
        )
        tensors = named_tensors(file.decoder, file.layout)
        written = path.with_name(f"f16-{path.name}") if form.by_llamacpp else path
        write_gguf(written, file.layout.architecture, metadata, tensors, form, progress=progress)
        if form.by_llamacpp:
            progress("quantise")
            tied = source.decoder.head is None
            by_name = _by_name(importance, tensors, tied=tied, folded=file.part == "first" and _has_own_head(cut))
            quantise(written, path, form.file_type, by_name, embedding_type=embedding_type)
            written.unlink()
            if file.part == "rest" and tied and _has_own_head(cut):
                embedding_type = int(read_gguf_header(path).tensors["token_embd.weight"].type)
        seal_gguf(path)


def _has_own_head(cut: Exit | None) -> bool:
    return cut is not None and cut.own_head is not None


def _by_name(importance: Importance, tensors: list[NamedTensor], *, tied: bool, folded: bool) -> Importance:
    """The importances under the file's names; an embedding has one where the model's head is the same matrix.

    A head that a map is `folded` into has none: its inputs are not those of the model's head.
    """
    heads = {"token_embd.weight"} if tied or not any(named.name == "output.weight" for named in tensors) else set()
    if not folded:
        heads.add("output.weight")
    keys = {named.name: HEAD_WEIGHT if named.name in heads else named.tensor.name for named in tensors}
    return {name: importance[key] for name, key in keys.items() if key in importance}


def _check(
    source: ModelSource,
    files: list[Output],
    form: GgufFormat,
    staged: list[Path],
    manifests: list[GgufManifest],
    cut: Exit | None,
    policy: ExportPolicy,
) -> list[GgufManifest]:
    """The manifests with what was measured: of each model, of a pair together, and of its draft alone.

    EdgeSkipError where something does not match and `policy` does not allow that.
    """
    length = min(context_length(file.decoder) for file in files)

    def check(paths: list[Path], plan: Plan, draft: DraftCheck | None = None, whole: Output | None = None) -> Measured:
        exact = form.kind in ("F32", "F16") and not form.by_llamacpp
        dense = dense_source(whole.profile, source, plan) if whole and (plan.skips or not exact) else None
        measured = _verify(source, plan, paths, form, length, draft, dense)
        require_match(measured.record, policy)
        return measured

    if cut is None:
        found = [check([path], file.plan, whole=file) for file, path in zip(files, staged, strict=True)]
        return [_with_check(*each, source) for each in zip(manifests, files, found, strict=True)]
    plan, exits = files[0].plan, exiting(files[0].plan, cut.layer)
    # As any program would run it; with a trimmed head that is another draft than ours.
    draft = check(staged[:1], exits, DraftCheck(None, cut.alone) if cut.alone else None).record
    if cut.head.tokens is not None:
        own = check(staged, exits, DraftCheck(0, cut.chosen.adapter, cut.head.tokens)).record
        draft = own.model_copy(update={"passed": own.passed and draft.passed})
    if len(files) == 1:
        return [manifests[0].model_copy(update={"verification": draft})]
    both = check(staged, plan, whole=files[0])
    first, rest = (_with_check(manifest, files[0], both, source) for manifest in manifests)
    return [first.model_copy(update={"draft_verification": draft}), rest]


def _with_check(manifest: GgufManifest, file: Output, measured: Measured, source: ModelSource) -> GgufManifest:
    cost = artifact_cost(file.profile, source, file.plan, measured.cost)
    return manifest.model_copy(update={"verification": measured.record, "cost": cost})


def _verify(
    source: ModelSource,
    plan: Plan,
    staged: list[Path],
    form: GgufFormat,
    length: int,
    draft: DraftCheck | None,
    dense: ModelSource | None,
) -> Measured:
    """Kept blocks are compared a second time as F16, because of what llama.cpp rounds in running them.

    One file of a pair is run alone.
    """
    check = partial(
        verify, bound=bound_of(form), alone=len(staged) == 1, draft=draft, context_length=length, dense=dense
    )
    if form.kind is not None:
        return check(source, plan, staged[0])
    with tempfile.TemporaryDirectory(prefix="widened.", dir=staged[0].parent) as folder:
        for path in staged:
            if path.suffix == ".gguf":
                widen(path, Path(folder) / path.name)
            else:
                shutil.copyfile(path, Path(folder) / path.name)
        own = draft is not None and (draft.which is None or draft.adapter is not None)
        exact = OWN_HEAD if own else EXACT
        return check(source, plan, staged[0], twin=Twin(Path(folder) / staged[0].name, exact))
