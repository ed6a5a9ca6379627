"""`edgeskip export`: bakes a profile's plan into static artifacts that are checked before they are there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgeskip.artifacts.gguf.manifest import GgufManifest
    from edgeskip.artifacts.manifest import DraftRecord, Manifest, VerificationRecord
    from edgeskip.core.plan_cost import PlanCost
    from edgeskip.exporters.job import ExportResult


def export(
    profile: Annotated[str, typer.Option(help="A profile (llama.json), or the name of one that ships.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="onnx: folder to write; it must not exist. gguf: FILE.gguf, or a folder for a file named after the "
            "model. onnx,gguf: a folder for both.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="The model, where it is not where the profile says: name, folder, .gguf, hub id.")
    ] = None,
    target: Annotated[str, typer.Option(help="onnx, gguf (for llama.cpp) or onnx,gguf.")] = "onnx",
    precision: Annotated[
        str | None,
        typer.Option(
            help="onnx: fp32 (default), fp16 (for GPUs), int4 (4-bit blocks). gguf: f32, f16, bf16, q8_0, q5_1, q5_0, "
            "q4_1, q4_0, llama.cpp's mixtures such as q4_k_m, or keep, the default for a GGUF model (f16 otherwise): "
            "its own blocks (not with a LoRA, where q8_0 is the default). For both targets, one each: int4,keep.",
            show_default=False,
        ),
    ] = None,
    draft: Annotated[
        str | None,
        typer.Option(
            help="early-exit: the first blocks draft, the rest verifies. skip-plan: the profile's plan drafts, the "
            "dense model verifies."
        ),
    ] = None,
    exit_layer: Annotated[
        str | None,
        typer.Option(help="early-exit: blocks the draft runs; onnx takes several, 4,8,12.  [default: as swept]"),
    ] = None,
    draft_vocab: Annotated[
        int | None,
        typer.Option(help="early-exit: the draft's head knows only this many tokens, the corpus' most frequent."),
    ] = None,
    online: Annotated[
        bool,
        typer.Option(
            "--online",
            help="onnx: FFNs can be skipped while it runs, those that do little for an answer. gguf: a second file, "
            "without the plan's decode set, takes over while decoding.",
        ),
    ] = False,
    window: Annotated[
        int | None, typer.Option(help="online: tokens P that are decoded before that.  [default: the plan's, else 20]")
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(
            help="online, onnx: skip FFNs at least this similar, β; those calibrated far below it get no gate.  "
            "[default: the plan's]"
        ),
    ] = None,
    block_size: Annotated[
        int, typer.Option(help="int4: weights per scale; 16, 32, 64 or 128 (fewer: more exact, larger, slower).")
    ] = 64,
    symmetric: Annotated[bool, typer.Option("--symmetric", help="int4: no zero points; smaller, less exact.")] = False,
    head_bits: Annotated[int, typer.Option(help="int4: bits of embedding and head, 4 or 8 (more exact, slower).")] = 4,
    accuracy_level: Annotated[
        int, typer.Option(help="int4: 4 = int8 activations (fast), 1 = fp32 activations (exact, slow on CPU).")
    ] = 4,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="Keep an artifact that fails the check against the torch model.")
    ] = False,
    check: Annotated[bool, typer.Option(help="Compare the result with the torch model, in a fresh process.")] = True,
) -> None:
    """Export the profile's model and plan (dense where it has no plan) to ONNX or GGUF."""
    from edgeskip.artifacts.manifest import Manifest
    from edgeskip.cli.progress import progress_bar
    from edgeskip.exporters.options import export_options
    from edgeskip.exporters.pipeline import run_export
    from edgeskip.profiles.schema import locate_profile, read_profile

    options = export_options(
        target=target,
        precision=precision,
        draft=draft,
        exit_layer=exit_layer,
        draft_vocab=draft_vocab,
        online=online,
        window=window,
        beta=beta,
        block_size=block_size,
        symmetric=symmetric,
        head_bits=head_bits,
        accuracy_level=accuracy_level,
        overwrite=overwrite,
        check=check,
        allow_mismatch=allow_mismatch,
    )
    path = locate_profile(profile)
    with progress_bar() as bar:
        results = run_export(read_profile(path), path, output, options, model=model, progress=bar)
    for result in results:
        if isinstance(result.manifest, Manifest):
            _show_folder(result.manifest, result.path)
    files = [result for result in results if not isinstance(result.manifest, Manifest)]
    if files:
        _show_files(files)


def _show_folder(manifest: Manifest, folder: Path) -> None:
    size = sum(path.stat().st_size for path in folder.iterdir())
    skipped = len(manifest.plan.skip)
    _print(
        f"{folder}: {manifest.label}, {manifest.graph.precision}, "
        f"{skipped} of {2 * manifest.plan.num_blocks} sublayers skipped, {size / 1e6:.0f} MB"
    )
    if manifest.draft is not None:
        _print(_drafts(manifest.draft, manifest.plan.num_blocks))
    if manifest.online is not None:
        gates = manifest.online
        _print(
            f"online: of {len(gates.ffns)} FFNs those are skipped that are at least {gates.threshold:.4f} similar over "
            f"the first {gates.window} tokens of an answer"
        )
    _print(_checked(manifest.verification))
    _show_cost(manifest.cost)


def _show_cost(cost: PlanCost | None) -> None:
    from edgeskip.core.plan_cost import quality_line, speed_line

    if cost is not None and cost.artifact is not None:
        _print(f"cost against the dense model: {quality_line(cost.artifact)}")
    elif cost is not None:
        alone = f"; the plan alone, in float32: {quality_line(cost.plan)}" if cost.plan else ""
        _print(f"cost against the dense model: not measured for this artifact{alone}")
    if cost is not None and cost.speedup is not None:
        _print(speed_line(cost.speedup))


def _drafts(draft: DraftRecord, num_blocks: int) -> str:
    from edgeskip.cli.views.draft_facts import HEADS

    def share(agreement: float | None) -> str:
        return "" if agreement is None else f", predicts {agreement:.0%} of the tokens as the whole model"

    if draft.plan is not None:
        count = f"{len(draft.plan.skip)} of {2 * num_blocks}"
        return f"draft: the same graph without {count} sublayers{share(draft.agreement)}"
    exits = ", ".join(f"{found.layer} ({HEADS[found.head]}{share(found.agreement)})" for found in draft.exits)
    vocabulary = "" if draft.vocabulary is None else f", heads of the tokens in {draft.vocabulary}"
    return f"draft: early exit after {exits} of {num_blocks} blocks{vocabulary}"


def _show_files(files: list[ExportResult]) -> None:
    manifests: list[GgufManifest] = [file.manifest for file in files if file.target == "gguf"]  # type: ignore[misc]
    for file, manifest in zip(files, manifests, strict=True):
        skipped = f"{len(manifest.plan.skip)} of {2 * manifest.plan.num_blocks} sublayers skipped"
        exits = f", early exit after {manifest.exit_layer} blocks, {manifest.part} part" if manifest.exit_layer else ""
        size = f"{file.path.stat().st_size / 1e6:.0f} MB"
        _print(f"{file.path}: {manifest.label}, {manifest.precision} ({file.architecture}), {skipped}{exits}, {size}")
    if [manifest.part for manifest in manifests] == ["first"]:
        _print("a draft without its rest: llama.cpp has no architecture for both halves of this family")
    first = manifests[0]
    if first.draft_head is not None:
        _print(f"{files[0].path.with_name(first.draft_head)}: the head that drafts")
    for note in first.notes:
        _print(f"note: {note}")
    _print(_checked(first.verification))
    if first.draft_verification is not None:
        _print(f"its draft: {_checked(first.draft_verification)}")
    if first.decode is not None:
        _print(f"{first.decode} takes over after {first.window} tokens: {_checked(manifests[1].verification)}")
    if first.draft is not None:
        _print(f"its draft: {_checked(manifests[1].verification)}")
    _show_cost(first.cost)


def _checked(record: VerificationRecord | None) -> str:
    if record is None:
        return "not checked (--no-check)"
    twin = record.widened_kl_divergence
    widened = "" if twin is None else f" ({twin:.2g} with its blocks as F16)"
    return (
        f"{'checked' if record.passed else 'MISMATCH'} against {record.reference} on {record.tokens} tokens: "
        f"max |Δlogit| {record.max_abs_logit_difference:.2g}, KL {record.kl_divergence:.2g} nats{widened}, "
        f"top-1 agreement {record.top1_agreement:.1%} ({record.bound})"
    )


def _print(line: str) -> None:
    from edgeskip.core.terminal import Console

    Console(highlight=False, markup=False, soft_wrap=True).print(line)
