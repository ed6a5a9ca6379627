"""What a page is made of, as data: sections of paragraphs, lists, figures and tables. Knows no HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeskip.bench.analysis.formatting import NOT_MEASURED, format_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from edgeskip.bench.report.merged_runs import MergedRuns, ReportEntry


@dataclass(frozen=True)
class TableCell:
    """Content of a table's cell: a line and, smaller, one below it."""

    main: str
    detail: str = ""


@dataclass(frozen=True)
class Column:
    """Heading of a column; `unit` stands below it."""

    name: str
    unit: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Group:
    """Rows under a heading; the first cell of a row is its heading. `name` "" = no heading."""

    name: str
    rows: list[list[TableCell]]


@dataclass(frozen=True)
class Table:
    """A table; `note` says what the reader cannot know; `facts`: names and values, without headings."""

    caption: str
    columns: list[Column]
    groups: list[Group]
    note: str = ""
    facts: bool = False


@dataclass(frozen=True)
class Plot:
    """A figure: drawn at any width (in CSS pixels), described in words, its numbers all in a table of its section."""

    name: str
    title: str
    caption: str
    description: str
    draw: Callable[[int], Figure]


@dataclass(frozen=True)
class Section:
    """`name` is the anchor."""

    name: str
    title: str
    paragraphs: list[str] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def text_column(name: str = "") -> Column:
    """Return a column of words."""
    return Column(name, numeric=False)


def value_cell(value: float | None, form: Callable[[float], str] = format_number, detail: str = "") -> TableCell:
    """Return the cell of a number that may not have been measured."""
    return TableCell(NOT_MEASURED) if value is None else TableCell(form(value), detail)


def entry_heading(entry: ReportEntry) -> TableCell:
    """Return the heading of an entry's row: what, how, and its label."""
    return TableCell(entry.target, f"{entry.how} · {entry.label}")


def compact_table(caption: str, columns: list[Column], groups: list[Group], note: str = "") -> Table:
    """Return a table without the columns that were not measured in any row; the first column stays."""
    rows = [row for group in groups for row in group.rows]
    kept = [at for at in range(len(columns)) if at == 0 or any(row[at].main != NOT_MEASURED for row in rows)]
    shown = [Group(group.name, [[row[at] for at in kept] for row in group.rows]) for group in groups]
    return Table(caption, [columns[at] for at in kept], shown, note)


def device_tables(
    merged: MergedRuns,
    title: str,
    columns: Sequence[Column],
    row: Callable[[ReportEntry], list[TableCell] | None],
) -> list[Table]:
    """Return a table for each device, with the row of each of its entries; None = the entry has no row."""
    tables = []
    for device in merged.device_names:
        rows = [cells for entry in merged.on(device) if (cells := row(entry)) is not None]
        if rows:
            tables.append(compact_table(f"{title} on {device}", list(columns), [Group("", rows)]))
    return tables
