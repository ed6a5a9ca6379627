"""`edgeskip export`: the options of `edgeskip.export`, its progress and what was written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgeskip.cli.options import (
    Json,
    Model,
    OptionalProfileArg,
    Overwrite,
    ProfileOption,
    Target,
    one_profile,
    output_option,
)
from edgeskip.core.terminal import print_json

if TYPE_CHECKING:
    from edgeskip.artifacts.gguf.manifest import GgufManifest
    from edgeskip.artifacts.manifest import DraftRecord, Manifest, VerificationRecord
    from edgeskip.core.plan_cost import PlanCost
    from edgeskip.exporters.job import ExportResult

DRAFT, ONLINE, INT4 = "Draft", "Online skipping", "With --precision int4"


def export(
    profile: OptionalProfileArg = None,
    profile_option: ProfileOption = None,
    *,
    output: Annotated[
        Path,
        output_option(
            "onnx: folder to write. gguf: FILE.gguf, or a folder for a file named after the model. onnx,gguf: a folder "
            "for both."
        ),
    ],
    model: Model = None,
    target: Annotated[
        Target, typer.Option(help="What to write: ONNX graphs, a GGUF file for llama.cpp, or both.")
    ] = "onnx",
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="onnx: fp32, fp16 (for GPUs) or int4 (4-bit blocks). gguf: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, "
            "q4_0, llama.cpp's mixtures such as q4_k_m, or keep (the blocks of a GGUF model). For both targets one "
            "each: int4,keep.",
            show_default="onnx: fp32. gguf: keep for a GGUF model, q8_0 if it has a LoRA, else f16",
        ),
    ] = None,
    draft: Annotated[
        Literal["early-exit", "skip-plan"] | None,
        typer.Option(
            help="What drafts: the first blocks (early-exit), or the profile's plan (skip-plan; the dense model "
            "verifies).",
            show_default="no draft",
            rich_help_panel=DRAFT,
        ),
    ] = None,
    exit_layer: Annotated[
        str | None,
        typer.Option(
            metavar="E,…",
            help="early-exit: blocks that the draft runs; onnx takes several.",
            show_default="as swept",
            rich_help_panel=DRAFT,
        ),
    ] = None,
    draft_vocab: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="early-exit: limit the draft's head to the N most frequent tokens.",
            show_default="as swept or trained, else all",
            rich_help_panel=DRAFT,
        ),
    ] = None,
    online: Annotated[
        bool,
        typer.Option(
            "--online",
            help="onnx: FFNs that do little for an answer can be skipped while it runs. gguf: a second file, without "
            "the plan's decode set, takes over while decoding.",
            rich_help_panel=ONLINE,
        ),
    ] = False,
    window: Annotated[
        int | None,
        typer.Option(
            metavar="P",
            help="Tokens decoded before that.",
            show_default="the plan's, else 20",
            rich_help_panel=ONLINE,
        ),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="onnx: skip FFNs with a similarity of at least β; those calibrated far below it get no gate.",
            show_default="the plan's",
            rich_help_panel=ONLINE,
        ),
    ] = None,
    block_size: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Weights per scale: 16, 32, 64 or 128; fewer are more exact, larger and slower.",
            rich_help_panel=INT4,
        ),
    ] = 64,
    symmetric: Annotated[
        bool, typer.Option("--symmetric", help="No zero points: smaller, less exact.", rich_help_panel=INT4)
    ] = False,
    head_bits: Annotated[
        int,
        typer.Option(
            metavar="N", help="Bits of embedding and head: 4, or 8 (more exact, slower).", rich_help_panel=INT4
        ),
    ] = 4,
    accuracy_level: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="4: int8 activations (fast). 1: fp32 activations (exact, slow on CPUs).",
            rich_help_panel=INT4,
        ),
    ] = 4,
    check: Annotated[bool, typer.Option(help="Compare the result with the torch model, in a fresh process.")] = True,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="Keep an artifact that fails this check.")
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Export a profile's model, with its plan, to ONNX or GGUF.

    A profile without a plan gives the dense model.
    """
    from edgeskip.api.export import export_targets
    from edgeskip.artifacts.manifest import Manifest
    from edgeskip.cli.progress import progress_bar
    from edgeskip.cli.views.plain import plain
    from edgeskip.exporters.options import export_options

    options = export_options(
        target=target, precision=precision, draft=draft, exit_layer=exit_layer, draft_vocab=draft_vocab, online=online,
        window=window, beta=beta, block_size=block_size, symmetric=symmetric, head_bits=head_bits,
        accuracy_level=accuracy_level, overwrite=overwrite, check=check, allow_mismatch=allow_mismatch,
    )  # fmt: skip
    with progress_bar() as bar:
        results = export_targets(one_profile(profile, profile_option), output, options, model=model, progress=bar)
    if json:
        print_json(plain({"artifacts": results}))
        return
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
            f"online: of {len(gates.ffns)} FFNs, skip those with a similarity of at least {gates.threshold:.4f} over "
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
