"""How two benchmark runs are shown side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeskip.bench.analysis.compare import RATIO_DIGITS
from edgeskip.bench.analysis.table import ratio_text
from edgeskip.cli.views.tables import WIDE, show, show_line, table

if TYPE_CHECKING:
    from rich.table import Table

    from edgeskip.bench.analysis.compare import RowChange, RunComparison


def show_comparison(found: RunComparison, bound: float) -> None:
    """Print the table, and below it what is to be known about it."""
    show(comparison_table(found, bound))
    for line in _lines(found, bound):
        show_line(line)


def as_markdown(found: RunComparison, bound: float) -> str:
    """Return the table and the lines below it as Markdown."""
    from rich import box
    from rich.console import Console

    rows = comparison_table(found, bound)
    rows.box, rows.pad_edge = box.MARKDOWN, True
    console = Console(width=WIDE)
    with console.capture() as captured:
        console.print(rows)
    return "\n".join([*(line.rstrip() for line in captured.get().strip().splitlines()), "", *_lines(found, bound)])


def comparison_table(found: RunComparison, bound: float) -> Table:
    """Return a row for each measure that both runs have."""
    names = ("target", "device", "provider", "threads", "strategy", "measure")
    rows = table(*names, ">A", ">B", "unit", "B ÷ A, better > 1", "")
    for change in found.changes:
        key = change.key
        rows.add_row(
            key.target, key.device, key.provider, str(key.threads), key.strategy, key.measure,
            f"{change.before:.4g}", f"{change.after:.4g}", change.unit, ratio_text(change.ratio, RATIO_DIGITS),
            _verdict(change, bound),
        )  # fmt: skip
    return rows


def _lines(found: RunComparison, bound: float) -> list[str]:
    """Return what is in one run only, what differs between the machines, and the verdict."""
    lines = [
        f"{title}: {key}"
        for title, keys in (("only in A", found.only_before), ("only in B", found.only_after))
        for key in keys
    ]
    lines += [f"note: {line}" for line in found.differences]
    worse = found.regressions(bound)
    names = ", ".join(str(change.key) for change in worse)
    speeds = sum(change.is_speed for change in found.changes)
    lines.append(
        f"{len(worse)} of {speeds} speeds are worse by more than {bound:.1%}" + (f": {names}" if worse else "")
    )
    return lines


def _verdict(change: RowChange, bound: float) -> str:
    low, high = change.ratio.low, change.ratio.high
    if change.regressed(bound):
        return "regression" if high is not None else "regression, by one round"
    if low is None or high is None:
        return "one round"
    return "better" if low > 1 else "worse" if high < 1 else ""
