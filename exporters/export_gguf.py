"""Exports a profile's model to GGUF files for llama.cpp: bake, lay out, write, check, rename into place."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.errors import EdgeSkipError
from edgeskip.exporters.bake import bake
from edgeskip.exporters.export import ExportPolicy, require_match
from edgeskip.exporters.gguf.blocks import check_scalable
from edgeskip.exporters.gguf.formats import GgufFormat
from edgeskip.exporters.gguf.layout import Layout, lay_out
from edgeskip.exporters.gguf.metadata import context_length, file_metadata
from edgeskip.exporters.gguf.naming import file_name
from edgeskip.exporters.gguf.parts import first_part, rest_part
from edgeskip.exporters.gguf.quantise import check_quantiser, quantise
from edgeskip.exporters.gguf.tensors import NamedTensor, named_tensors
from edgeskip.exporters.gguf.widen import widen
from edgeskip.exporters.gguf.write import patch_string, write_gguf
from edgeskip.exporters.importance import HEAD_WEIGHT, Importance, importance_of
from edgeskip.exporters.provenance import (
    check_weights,
    inputs_of,
    now,
    plan_label,
    plan_summary,
    software_versions,
)
from edgeskip.exporters.split import check_exit_layer, exiting
from edgeskip.exporters.verify import Bound, Twin, verify
from edgeskip.files import refuse_file, staged_files
from edgeskip.gguf_manifest import VERIFICATION_KEY, GgufManifest, Part
from edgeskip.plan import Plan
from edgeskip.planner import resolve
from edgeskip.runtime.engines.llamacpp_library import llama

if TYPE_CHECKING:
    from edgeskip.exporters.decoder import Decoder
    from edgeskip.exporters.families.source import ModelSource
    from edgeskip.manifest import VerificationRecord
    from edgeskip.profile import Profile, Vectors

Progress = Callable[[str], None]


@dataclass(frozen=True)
class GgufFile:
    """A file that was written and what it says of itself."""

    path: Path
    architecture: str
    manifest: GgufManifest


@dataclass(frozen=True)
class _Half:
    """A decoder that becomes one file."""

    part: Part
    decoder: Decoder
    layout: Layout


EXACT = Bound(kl_divergence=1e-3)


def bound_of(form: GgufFormat) -> Bound:
    """What passes the check. llama.cpp rounds activations to 8 bits wherever weights are quantised (0.0026 nats for a
    dense Q4_1 SmolLM2, 0.05 where a plan leaves out its first FFN), and a quantisation of ours moves the weights too.
    """
    if form.kind in ("F32", "F16") and not form.by_llamacpp:
        return EXACT
    if form.name.startswith(("Q2", "Q3")):
        return Bound(kl_divergence=2.0)
    return Bound(kl_divergence=0.25 if form.kind is None or form.name in ("BF16", "Q8_0", "Q6_K") else 0.75)


def output_paths(
    source: ModelSource, profile: Profile, form: GgufFormat, output: Path, exit_layer: int | None
) -> list[Path]:
    """The file or files that an export to `output` writes: a name ending in .gguf, or a folder that gets the
    ecosystem's names. EdgeSkipError for a pair without a folder."""
    summary = plan_summary(profile)
    if output.suffix.lower() == ".gguf" and not output.is_dir():
        if exit_layer is not None:
            raise EdgeSkipError(f"an early exit is two files: give -o a folder, not {output}")
        return [output]
    parts: tuple[Part, ...] = ("whole",) if exit_layer is None else ("first", "rest")
    return [output / file_name(source.name, summary, form.name, exit_layer=exit_layer, part=part) for part in parts]


def refuse_outputs(
    source: ModelSource,
    profile: Profile,
    vectors: Vectors | None,
    form: GgufFormat,
    output: Path,
    *,
    exit_layer: int | None,
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
    _refuse_targets(source, output_paths(source, profile, form, output, exit_layer), policy)
    check_weights(source, profile)
    halves = _halves(bake(source.decoder, resolve(profile, vectors)), exit_layer)
    if form.kind is None:
        for named in (named for half in halves for named in named_tensors(half.decoder, half.layout)):
            if named.tensor.blocks is not None and len(named.tensor.shape) > 1:  # vectors become F32
                check_scalable(named.tensor.blocks, named.name)


def export_gguf(
    source: ModelSource,
    profile: Profile,
    vectors: Vectors | None,
    form: GgufFormat,
    output: Path,
    *,
    exit_layer: int | None = None,
    policy: ExportPolicy,
    progress: Progress = lambda _: None,
) -> list[GgufFile]:
    """Writes the file for the profile's plan (dense where it has none), or the pair that exits after `exit_layer`
    blocks, and returns what was written.

    Where llama.cpp has no architecture for the first half's stub, the first part is written alone: a draft model.
    EdgeSkipError where the profile is for other weights, llama.cpp cannot hold the plan, an output may not be written
    or the result does not match the torch model; then nothing has changed.
    """
    targets = output_paths(source, profile, form, output, exit_layer)
    _refuse_targets(source, targets, policy)
    check_weights(source, profile)
    plan = resolve(profile, vectors)
    halves = _halves(bake(source.decoder, plan), exit_layer)
    targets = targets[: len(halves)]
    alone = [half.part for half in halves] == ["first"]
    with staged_files(targets, overwrite=policy.overwrite) as staged:
        manifests = [
            _manifest(source, profile, form, half.part, exit_layer, None if alone else _partner(half.part, targets))
            for half in halves
        ]
        importance: Importance = {}
        if form.by_llamacpp:
            progress("importance")
            with tempfile.TemporaryDirectory(prefix="edgeskip-tokenizer-") as folder:
                source.write_tokenizer(Path(folder))
                importance = importance_of(source, plan, Path(folder))
        for half, path, manifest in zip(halves, staged, manifests, strict=True):
            _write(source, half, form, path, manifest, importance, progress)
        if policy.check:
            progress("check")
            length = min(context_length(half.decoder) for half in halves)
            if exit_layer is not None:  # the first half is a draft of its own
                draft = _verify(source, exiting(plan, exit_layer), staged[:1], form, length)
                require_match(draft, policy)
            record = draft if alone else _verify(source, plan, staged, form, length)
            require_match(record, policy)
            if exit_layer is not None:  # a draft that failed and was allowed to is in the pair's record
                record = record.model_copy(update={"passed": record.passed and draft.passed})
            checked = [manifest.model_copy(update={"verification": record}) for manifest in manifests]
            for path, *versions in zip(staged, manifests, checked, strict=True):
                patch_string(path, VERIFICATION_KEY, *(version.to_metadata()[VERIFICATION_KEY] for version in versions))
            manifests = checked
    return [
        GgufFile(path, half.layout.architecture, manifest)
        for path, half, manifest in zip(targets, halves, manifests, strict=True)
    ]


def _refuse_targets(source: ModelSource, targets: list[Path], policy: ExportPolicy) -> None:
    for target in targets:
        if any(target.exists() and target.samefile(file) for file in source.checkpoint.files):
            raise EdgeSkipError(f"{target} is the model itself, so it is not replaced: choose another -o")
        refuse_file(target, overwrite=policy.overwrite)


def _halves(baked: Decoder, exit_layer: int | None) -> list[_Half]:
    if exit_layer is None:
        return [_Half("whole", baked, lay_out(baked))]
    check_exit_layer(exit_layer, baked.config.num_blocks)
    first, rest = first_part(baked, exit_layer), rest_part(baked, exit_layer)
    try:
        layouts = lay_out(first, trailing_stub=True), lay_out(rest)
    except EdgeSkipError:
        return [_Half("first", first, lay_out(first))]
    return [_Half("first", first, layouts[0]), _Half("rest", rest, layouts[1])]


def _partner(part: Part, targets: list[Path]) -> str | None:
    names = {"first": 1, "rest": 0}
    return targets[names[part]].name if part in names else None


def _manifest(
    source: ModelSource, profile: Profile, form: GgufFormat, part: Part, exit_layer: int | None, partner: str | None
) -> GgufManifest:
    """The manifest of a file that is not checked yet."""
    return GgufManifest(
        label="draft-only" if part == "first" else plan_label(profile),
        part=part,
        exit_layer=exit_layer,
        partner=partner,
        precision=form.name,
        model=source.record(),
        plan=plan_summary(profile),
        inputs=inputs_of(source, profile, importance=form.by_llamacpp),
        versions=software_versions("gguf", "torch", "transformers")
        | (software_versions("llama-cpp-python") if form.by_llamacpp else {}),
        created=now(),
        verification=None,
    )


def _write(
    source: ModelSource,
    half: _Half,
    form: GgufFormat,
    path: Path,
    manifest: GgufManifest,
    importance: Importance,
    progress: Progress,
) -> None:
    written = path.with_name(f"f16-{path.name}") if form.by_llamacpp else path
    metadata = file_metadata(source, half.decoder, half.layout, form.file_type, manifest.to_metadata())
    tensors = named_tensors(half.decoder, half.layout)
    write_gguf(written, half.layout.architecture, metadata, tensors, form, progress=progress)
    if form.by_llamacpp:
        progress("quantise")
        quantise(written, path, form.file_type, _by_name(importance, tensors))
        written.unlink()


def _by_name(importance: Importance, tensors: list[NamedTensor]) -> Importance:
    """The importances under the file's names; an embedding has one where it is the head."""
    tied = all(named.name != "output.weight" for named in tensors)
    heads = ("output.weight", "token_embd.weight") if tied else ("output.weight",)
    keys = {named.name: HEAD_WEIGHT if named.name in heads else named.tensor.name for named in tensors}
    return {name: importance[key] for name, key in keys.items() if key in importance}


def _verify(
    source: ModelSource, plan: Plan, staged: list[Path], form: GgufFormat, context_length: int
) -> VerificationRecord:
    """Kept blocks are compared a second time as F16, because of what llama.cpp rounds in running them.

    One file of a pair is run alone.
    """
    check = partial(verify, bound=bound_of(form), alone=len(staged) == 1, context_length=context_length)
    if form.kind is not None:
        return check(source, plan, staged[0])
    with tempfile.TemporaryDirectory(prefix="widened.", dir=staged[0].parent) as folder:
        for path in staged:
            widen(path, Path(folder) / path.name)
        return check(source, plan, staged[0], twin=Twin(Path(folder) / staged[0].name, EXACT))
