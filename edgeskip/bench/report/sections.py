"""What a page is made of, as data: sections of paragraphs, lists, figures and tables. Knows no HTML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    """Rows under a heading of their own; the first of a row is its heading. `name` "" = no heading."""

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
    """A figure: drawn at any width (in CSS pixels), told in words, its numbers all in a table of its section."""

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


def drop_empty_columns(columns: list[Column], groups: list[Group], absent: str) -> tuple[list[Column], list[Group]]:
    """Without the columns that are `absent` in every row; the first column stays."""
    rows = [row for group in groups for row in group.rows]
    kept = [at for at in range(len(columns)) if at == 0 or any(row[at].main != absent for row in rows)]
    return [columns[at] for at in kept], [Group(g.name, [[row[at] for at in kept] for row in g.rows]) for g in groups]
