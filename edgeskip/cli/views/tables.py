"""The one style of the tables and facts that commands print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

WIDE = 200
"""Columns of a table that is not printed to a terminal: a file has no edge to wrap at."""


def table(*columns: str, title: str | None = None, caption: str | None = None, min_width: int | None = None) -> Table:
    """Return a table without rows.

    Args:
        columns: The headings; one that starts with `>` is of a column aligned to the right, as figures are.
        title: A line above the table.
        caption: A line below it.
        min_width: Columns of text it takes at least.
    """
    from rich import box
    from rich.table import Table

    made = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title=title, caption=caption, title_justify="left", caption_justify="left",
        min_width=max(min_width or 0, len(title or "")) or None,
    )  # fmt: skip
    for heading in columns:
        name = heading.removeprefix(">")
        made.add_column(name, justify="right" if heading.startswith(">") else "left", overflow="fold")
    return made


def facts(items: Mapping[str, str | Text]) -> Table:
    """Return a name and its value in each row, without headings."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in items.items():
        grid.add_row(name, value)
    return grid


def show(*renderables: RenderableType) -> None:
    """Print tables, facts or text on standard output."""
    from edgeskip.core.terminal import Console

    console = Console(highlight=False, markup=False)
    if console.is_terminal:
        for renderable in renderables:
            console.print(renderable)
        return
    console = Console(highlight=False, markup=False, width=max(WIDE, console.width))
    with console.capture() as captured:
        for renderable in renderables:
            console.print(renderable)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def show_line(line: str | Text, style: str = "") -> None:
    """Print one line on standard output, however long, so that it can be copied."""
    from edgeskip.core.terminal import Console

    Console(highlight=False, markup=False, soft_wrap=True).print(line, style=style)
