"""`edgeskip export`: bakes a profile's plan into static artifacts that are checked before they are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgeskip.artifacts.manifest import DraftRecord, Manifest, VerificationRecord
    from edgeskip.core.plan_cost import PlanCost
    from edgeskip.exporters.gguf.export import GgufFile


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
    from edgeskip.core.locks import hold
    from edgeskip.exporters.gguf.export import export_gguf, refuse_outputs
    from edgeskip.exporters.gguf.formats import format_for
    from edgeskip.exporters.gguf.output_plan import output_paths
    from edgeskip.exporters.onnx.export import ExportPolicy, export_onnx, refuse_output
    from edgeskip.exporters.onnx.formats import weight_format
    from edgeskip.exporters.options import draft_of, online_of, settled, targets_of
    from edgeskip.models.profile_source import source_of
    from edgeskip.planning.planner import skipped_of
    from edgeskip.profiles.schema import locate_profile, read_profile
    from edgeskip.profiles.vectors import read_vectors
    from edgeskip.runtime.engines.onnxruntime.attention_limits import refuse_head_size

    targets = targets_of(target, precision)
    request = draft_of(draft, exit_layer, draft_vocab, targets)
    gates = online_of(online, window, beta, draft, targets)
    policy = ExportPolicy(overwrite, check, allow_mismatch)
    folder = output / "onnx" if targets.gguf and targets.onnx else output
    if targets.onnx:
        form = weight_format(
            targets.onnx_precision,
            block_size=block_size,
            symmetric=symmetric,
            head_bits=head_bits,
            accuracy_level=accuracy_level,
        )
        refuse_output(folder, overwrite=overwrite)
    path = locate_profile(profile)
    read = read_profile(path)
    if request is not None:
        request = settled(request, read)
    exits = request.exit_layers if request else ()
    source = source_of(read, path, model)
    if targets.onnx:
        refuse_head_size(source.decoder, skipped_of(read) if draft is None or exits else ())
    vectors = read_vectors(read, path)
    kept = 2 * read.model.num_blocks - len(read.plan.skip if read.plan else [])
    if targets.gguf:
        gguf_form = format_for(source, targets.gguf_precision)
        refuse_outputs(
            source,
            read,
            vectors,
            gguf_form,
            output,
            draft=request,
            online=gates,
            policy=policy,
            folder=targets.onnx,
        )
    # Only now: to hold an output makes the folders above it.
    if targets.onnx:
        hold(folder)
    if targets.gguf:
        hold(*output_paths(source, read, gguf_form, output, request, online=gates is not None))
    if targets.onnx:
        if request is not None and request.kind == "skip-plan":
            kept = 2 * read.model.num_blocks
        # Besides the sublayers: embedding, head, draft, check, and int4's importance.
        with _progress(kept + 3 + (request is not None) + form.quantised) as step:
            manifest = export_onnx(
                source,
                read,
                vectors,
                form,
                folder,
                draft=request,
                online=gates,
                policy=policy,
                progress=step,
            )
        _show_folder(manifest, folder)
    if targets.gguf:
        # Besides the blocks: importance, quantising, check; a pair has a stub and is quantised twice.
        with _progress(read.model.num_blocks + 3 + 2 * bool(exits)) as step:
            files = export_gguf(
                source,
                read,
                vectors,
                gguf_form,
                output,
                draft=request,
                online=gates,
                policy=policy,
                progress=step,
            )
        _show_files(files)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """How far `total` named steps are, on stderr."""
    from edgeskip.core.progress import progress_display

    with progress_display() as shown:
        shown.update("exporting", 0, total)
        done = -1

        def step(name: str) -> None:
            nonlocal done
            done += 1
            shown.update("exporting", min(done, total - 1), total, name)

        yield step
        shown.update("exporting", total, total)


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


def _show_files(files: list[GgufFile]) -> None:
    for file in files:
        manifest = file.manifest
        skipped = f"{len(manifest.plan.skip)} of {2 * manifest.plan.num_blocks} sublayers skipped"
        exits = f", early exit after {manifest.exit_layer} blocks, {manifest.part} part" if manifest.exit_layer else ""
        size = f"{file.path.stat().st_size / 1e6:.0f} MB"
        _print(f"{file.path}: {manifest.label}, {manifest.precision} ({file.architecture}), {skipped}{exits}, {size}")
    if [file.manifest.part for file in files] == ["first"]:
        _print("a draft without its rest: llama.cpp has no architecture for both halves of this family")
    first = files[0].manifest
    if first.draft_head is not None:
        _print(f"{files[0].path.with_name(first.draft_head)}: the head that drafts")
    for note in first.notes:
        _print(f"note: {note}")
    _print(_checked(first.verification))
    if first.draft_verification is not None:
        _print(f"its draft: {_checked(first.draft_verification)}")
    if first.decode is not None:
        _print(f"{first.decode} takes over after {first.window} tokens: {_checked(files[1].manifest.verification)}")
    if first.draft is not None:
        _print(f"its draft: {_checked(files[1].manifest.verification)}")
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
