"""`edgeskip compare`: two benchmark runs as ratios; exit code 1 where something got slower."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeskip.core.named_path import named_path
from edgeskip.core.terminal import print_json

if TYPE_CHECKING:
    from edgeskip.bench.analysis.compare import RowChange, RunComparison


def compare(
    before: Annotated[
        Path,
        typer.Argument(parser=named_path, help="The run to compare with, as edgeskip bench wrote it.", metavar="A"),
    ],
    after: Annotated[
        Path,
        typer.Argument(parser=named_path, help="The run that may be better or worse.", metavar="B"),
    ],
    fail_above: Annotated[
        str,
        typer.Option(
            help="Exit 1 where a speed is worse by more than this and its 95 % interval excludes no change (with one "
            "round, which has none, by the bound alone)."
        ),
    ] = "5%",
    measure: Annotated[
        list[str] | None, typer.Option(help="Only this measure, e.g. tg128; repeatable.", show_default="all")
    ] = None,
    other_device: Annotated[
        bool, typer.Option("--other-device", help="Compare though the machines differ; rows match by kind of device.")
    ] = False,
    output: Annotated[str, typer.Option("--output", "-o", help="Print as md or json.")] = "md",
) -> None:
    """Print how many times as good B is as A, row by row. pp, tg, TTFT, TPOT and ITL p50 count as speeds."""
    from edgeskip.bench.analysis.compare import compare_runs as compare_runs
    from edgeskip.bench.runner.run_file import read_run
    from edgeskip.core.errors import EdgeSkipError

    bound = _share(fail_above)
    if output not in ("md", "json"):
        raise EdgeSkipError(f"-o {output} is unknown: choose md or json")
    found = compare_runs(read_run(before), read_run(after), measures=measure or (), other_device=other_device)
    if output == "json":
        print_json(_as_json(found, bound))
    else:
        _print(found, bound)
    if found.regressions(bound):
        raise typer.Exit(1)


def _share(text: str) -> float:
    """5% or 0.05."""
    from edgeskip.core.errors import EdgeSkipError

    number = text.strip().removesuffix("%")
    try:
        value = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise EdgeSkipError(f"--fail-above {text} is no share from 0 to 1: give one as in 5% or 0.05")
    return value


def _as_json(found: RunComparison, bound: float) -> dict[str, Any]:
    from dataclasses import asdict

    data = asdict(found)
    data["fail_above"] = bound
    data["regressions"] = [asdict(change.key) for change in found.regressions(bound)]
    return data


def _print(found: RunComparison, bound: float) -> None:
    from rich.table import Table

    from edgeskip.core.terminal import Console

    console = Console(highlight=False, markup=False)
    table = Table(pad_edge=False, box=None)
    for heading in ("target", "device", "provider", "threads", "strategy", "measure"):
        table.add_column(heading, overflow="fold")
    for heading in ("A", "B", "unit", "B ÷ A, better > 1", ""):
        table.add_column(heading, justify="right" if heading in ("A", "B") else "left", no_wrap=True)
    for change in found.changes:
        key = change.key
        table.add_row(
            key.target, key.device, key.provider, str(key.threads), key.strategy, key.measure,
            f"{change.before:.4g}", f"{change.after:.4g}", change.unit, _ratio(change), _verdict(change, bound),
        )  # fmt: skip
    Console(highlight=False, markup=False, width=max(console.width, 120)).print(table)
    for title, keys in (("only in A", found.only_before), ("only in B", found.only_after)):
        for key in keys:
            console.print(f"{title}: {key}", soft_wrap=True)
    for line in found.differences:
        console.print(f"note: {line}", soft_wrap=True)
    worse = found.regressions(bound)
    words = ", ".join(str(change.key) for change in worse)
    console.print(
        f"{len(worse)} of {sum(change.is_speed for change in found.changes)} speeds are worse by more than {bound:.1%}"
        + (f": {words}" if worse else ""),
        soft_wrap=True,
    )


def _ratio(change: RowChange) -> str:
    from edgeskip.bench.analysis.compare import RATIO_DIGITS
    from edgeskip.bench.analysis.table import ratio_text

    return ratio_text(change.ratio, RATIO_DIGITS)


def _verdict(change: RowChange, bound: float) -> str:
    low, high = change.ratio.low, change.ratio.high
    if change.regressed(bound):
        return "regression" if high is not None else "regression, by one round"
    if low is None or high is None:
        return "one round"
    return "better" if low > 1 else "worse" if high < 1 else ""
