"""The page: sections as one HTML file that needs nothing else, figures in it and as PNGs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeskip.bench.analysis.formatting import join_names, pluralize, sanitize
from edgeskip.bench.report.environment_sections import (
    conditions_section,
    environment_section,
    execution_section,
    failures_section,
)
from edgeskip.bench.report.latency import resources_section, serving_section, synthetic_section
from edgeskip.bench.report.merged_runs import MergedRuns, read_runs
from edgeskip.bench.report.plot_style import NARROW, VARIABLES, WIDE, need_matplotlib
from edgeskip.bench.report.sections import Plot, Section
from edgeskip.bench.report.summary import summary_of
from edgeskip.bench.report.svg import Stylesheet, png, svg
from edgeskip.bench.report.time_breakdown import drafting_section, time_section
from edgeskip.bench.report.tradeoff import targets_table, tradeoff_section
from edgeskip.core.files import refuse_file, replace_file, staged_files

_LINKS = ("#0b57d0", "#8ab4f8")


@dataclass(frozen=True)
class _Drawing:
    """One plot as two <svg> elements, safe to put into the page."""

    narrow: str
    wide: str


def write_report(
    runs: Sequence[Path], output: Path, *, png_folder: Path | None = None, overwrite: bool = False
) -> list[Path]:
    """Write the page on these run files to `output`, and its figures to `png_folder`; return the paths written.

    Raises EdgeSkipError if a run is none, a file exists that is not to be written over, or matplotlib is missing;
    nothing is written then.
    """
    need_matplotlib()
    refuse_file(output, overwrite=overwrite)
    merged = read_runs(runs)
    sections = sections_of(merged)
    plots = [plot for section in sections for plot in section.plots]
    pictures = [] if png_folder is None else [png_folder / f"{plot.name}.png" for plot in plots]
    for picture in pictures:
        refuse_file(picture, overwrite=overwrite, option="--png")
    page = html(merged, sections)
    if pictures:
        with staged_files(pictures, overwrite=overwrite) as staged:
            for path, plot in zip(staged, plots, strict=True):
                path.write_bytes(png(plot.draw, WIDE, plot.title, plot.description))
    replace_file(output, page.encode(), overwrite=overwrite)
    return [output, *pictures]


def sections_of(merged: MergedRuns) -> list[Section]:
    """Return all sections that have something to say."""
    targets = Section("targets", "Targets", tables=[targets_table(merged)])
    found = [
        serving_section(merged),
        synthetic_section(merged),
        tradeoff_section(merged),
        drafting_section(merged),
        time_section(merged),
        resources_section(merged),
        targets,
        execution_section(merged) if merged.entries else None,
        conditions_section(merged) if merged.entries else None,
        failures_section(merged),
        environment_section(merged),
    ]
    return [section for section in found if section is not None]


def html(merged: MergedRuns, sections: Sequence[Section]) -> str:
    """Return the page. Every text is escaped; only what this package draws is inserted as it is."""
    import jinja2
    from markupsafe import Markup

    sheet = Stylesheet()
    drawings = {
        plot.name: _Drawing(*(Markup(text) for text in _drawings(plot, sheet)))
        for section in sections
        for plot in section.plots
    }
    folder = Path(__file__).parent
    style = "\n".join([_variables(), (folder / "page.css").read_text(encoding="utf-8"), sheet.css])
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return template.render(
        title="EdgeSkip benchmark",
        subtitle=_subtitle(merged),
        summary=summary_of(merged),
        sections=sections,
        drawings=drawings,
        style=Markup(style),
        style_hash=f"sha256-{digest}",
    )


def _drawings(plot: Plot, sheet: Stylesheet) -> tuple[str, str]:
    title, words = plot.title, plot.description
    return (
        svg(plot.draw, NARROW, f"{plot.name}-n-", title, words, sheet),
        svg(plot.draw, WIDE, f"{plot.name}-w-", title, words, sheet),
    )


def _subtitle(merged: MergedRuns) -> str:
    runs = [f"{part.label} of {sanitize(part.run.header.created, 40)}" for part in merged.parts]
    on = f"On {join_names(merged.device_names)}. " if merged.device_names else ""
    return f"{on}From {pluralize(len(runs), 'run')}: {'; '.join(runs)}. Ratios and rooflines are within each run."


def _variables() -> str:
    light = ";".join(f"--{name}:{value}" for name, (value, _) in VARIABLES.items())
    dark = ";".join(f"--{name}:{value}" for name, (_, value) in VARIABLES.items())
    return (
        f":root{{color-scheme:light dark;{light};--link:{_LINKS[0]}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark};--link:{_LINKS[1]}}}}}"
    )
