"""`edgeskip plan`: chooses the sublayers to skip and writes the plan into the profile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgeskip.plan import Plan
    from edgeskip.profile import Profile


def plan(
    profile: Annotated[str, typer.Argument(help="A profile (llama.json), or the name of one that ships.")],
    alpha: Annotated[
        float | None, typer.Option(help="Acceleration ratio α: skips 2m sublayers, m = M − M/α, M blocks.")
    ] = None,
    skip_sublayers: Annotated[int | None, typer.Option(help="Number of sublayers to skip; 0 = dense.")] = None,
    skip: Annotated[str | None, typer.Option(help="Sublayers to skip, by name: attn.25,ffn.3")] = None,
    method: Annotated[
        str,
        typer.Option(help="adaskip, or to compare with: early-exit, skipdecode, unified, least-similar, random."),
    ] = "adaskip",
    compensation: Annotated[
        str, typer.Option(help="What replaces a skipped sublayer: none, scale (x·s) or affine (x·s + b).")
    ] = "affine",
    seed: Annotated[int, typer.Option(help="Of the method random.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the profile there instead of replacing it.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing profile at -o.")] = False,
) -> None:
    """Choose the sublayers to skip, by a number, a ratio or names, and write that into the profile."""
    from edgeskip.errors import EdgeSkipError
    from edgeskip.models.profiles import ready_profiles
    from edgeskip.plan import COMPENSATIONS
    from edgeskip.planner import METHODS, choose, resolve
    from edgeskip.profile import locate_profile, model_at, read_adapter, read_profile, refuse_output, write_profile
    from edgeskip.vectors import pack_vectors, read_vectors

    if method not in METHODS:
        raise EdgeSkipError(f"--method {method} is unknown: choose one of {', '.join(METHODS)}")
    if compensation not in COMPENSATIONS:
        raise EdgeSkipError(f"--compensation {compensation} is unknown: choose one of {', '.join(COMPENSATIONS)}")
    path = locate_profile(profile)
    elsewhere = output is not None and output.resolve() != path.resolve()
    if not elsewhere and path in ready_profiles().values():
        raise EdgeSkipError(f"{profile} ships with EdgeSkip and is not changed: write a profile of your own with -o")
    read = read_profile(path)
    record = choose(
        read,
        method=method,
        compensation=compensation,
        alpha=alpha,
        skip_sublayers=skip_sublayers,
        skip=None if skip is None else [name for name in skip.split(",") if name.strip()],
        seed=seed,
    )
    vectors = read_vectors(read, path)
    planned = read.model_copy(update={"plan": record})
    resolved = resolve(planned, vectors)
    if output is not None and elsewhere:
        refuse_output(output, overwrite=overwrite)
        vectors_record, packed = pack_vectors(vectors, output)
        moved = {"vectors": vectors_record, "model": model_at(read.model, output)}
        write_profile(planned.model_copy(update=moved), output, packed, read_adapter(read, path))
    else:
        write_profile(planned, path)
    _show(planned, resolved, output or path)


def _show(profile: Profile, plan: Plan, path: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    record = profile.plan
    assert record is not None
    console = Console(highlight=False, markup=False)
    if not plan.skips:
        console.print(f"{path}: dense, nothing is skipped", soft_wrap=True)
        return
    table = Table("sublayer", box=None)
    for heading in ("similarity", "scale", "‖bias‖"):
        table.add_column(heading, justify="right")
    for skip in plan.skips:
        similarity = profile.statistics(skip.sublayer).prefill.similarity
        length = "–" if skip.bias is None else f"{float((skip.bias.astype(float) ** 2).sum()) ** 0.5:.3f}"
        table.add_row(str(skip.sublayer), f"{similarity:.4f}", f"{skip.scale:.4f}", length)
    console.print(table)
    console.print(
        f"{path}: {record.method} skips {len(plan.skips)} of {2 * plan.num_blocks} sublayers, "
        f"compensation {record.compensation}, β = {record.beta:.4f}",
        soft_wrap=True,
    )
