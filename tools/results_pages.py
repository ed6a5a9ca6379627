"""Render the pages of measured results, and the README's figure, from the data that is committed.

    python tools/results_pages.py            docs/results/*.md from docs/results/data/*.json
    python tools/results_pages.py --figure   and docs/results/quality-speed.svg (extra `plot`)

To record a new measurement, edit the JSON file (date, machine, versions, command, rows) and run this again. Nothing is
computed here: a page shows what its file says.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "docs" / "results"
FIGURE = RESULTS / "quality-speed.svg"
MADE = "<!-- Made by `python tools/results_pages.py` from data/{name}.json: edit that file. -->"
METHODS = {  # row of methods.json -> name, color and marker in the figure
    "EdgeSkip, budget (linear)": ("EdgeSkip, plan within a budget", "#3f51b5", "o"),
    "AdaSkip (scale)": ("AdaSkip (scale)", "#00897b", "s"),
    "Unified": ("Unified", "#8d6e63", "^"),
}
HEALED_SKIPS = 12
HEALED = f"AdaSkip's {HEALED_SKIPS}, healed (speed of the same plan)"


def render(name: str, page: dict[str, Any]) -> str:
    """Return the Markdown page of one data file."""
    parts = [MADE.format(name=name), f"# {page['title']}", f"Model: {page['model']}.", *page["intro"]]
    for table in page["tables"]:
        parts.append(f"## {table['title']}")
        parts += table["intro"]
        parts.append(_table(table["columns"], table["rows"]))
        facts = [f"Measured {table['date']}", table["machine"], table.get("versions")]
        parts.append(", ".join(fact for fact in facts if fact) + ".")
        parts.append(f"```text\n{table['command']}\n```")
        parts += table["notes"]
    if page["notes"]:
        parts += ["## Notes", *page["notes"]]
    return "\n\n".join(parts) + "\n"


def _table(columns: list[str], rows: list[list[str]]) -> str:
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"{row} has {len(row)} cells; the table has {len(columns)} columns")
    return "\n".join("| " + " | ".join(line) + " |" for line in [columns, ["---"] * len(columns), *rows])


def pages() -> dict[Path, str]:
    """Path of each results page -> its text, from the data files."""
    files = sorted((RESULTS / "data").glob("*.json"))
    return {RESULTS / f"{f.stem}.md": render(f.stem, json.loads(f.read_text(encoding="utf-8"))) for f in files}


def points(method: str) -> list[tuple[int, float, float]]:
    """Sublayers skipped, measured decode speed-up and perplexity of a method's plans, from methods.json."""
    page = json.loads((RESULTS / "data" / "methods.json").read_text(encoding="utf-8"))
    rows = page["tables"][0]["rows"]
    return [(int(row[0]), _speedup(row[4]), float(row[2])) for row in rows if row[1] == method]


def healed_perplexity() -> float:
    """Perplexity of the healed plan, from training.json. Healing changes weights only, so its speed is its plan's."""
    page = json.loads((RESULTS / "data" / "training.json").read_text(encoding="utf-8"))
    (cell,) = (row[1] for row in page["tables"][0]["rows"] if row[0] == "healed")
    return float(cell.strip("*"))


def _speedup(cell: str) -> float:
    match = re.match(r"([\d.]+)×", cell)
    if match is None:
        raise ValueError(f"{cell!r} does not begin with a speed-up")
    return float(match[1])


def draw(path: Path) -> None:
    """Draw perplexity against measured decode speed-up, a line per method, as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "edgeskip", "font.family": "sans-serif", "font.size": 10})
    figure, axes = plt.subplots(figsize=(7.2, 3.9), layout="constrained")
    (dense,) = points("dense")
    for method, (name, color, marker) in METHODS.items():
        plans = [dense, *points(method)]
        axes.plot(
            [speed for _, speed, _ in plans],
            [perplexity for *_, perplexity in plans],
            color=color,
            marker=marker,
            markersize=6,
            linewidth=2.2 if method.startswith("EdgeSkip") else 1.2,
            label=name,
        )
    for skips, speed, perplexity in points("EdgeSkip, budget (linear)"):
        axes.annotate(f"{skips}", (speed, perplexity), (0, -14), textcoords="offset points", ha="center", fontsize=8)
    axes.plot(dense[1], dense[2], "k*", markersize=12, label="dense", linestyle="none")
    (speed,) = (speed for skips, speed, _ in points("AdaSkip (scale)") if skips == HEALED_SKIPS)
    axes.plot(speed, healed_perplexity(), "*", color="#c2185b", markersize=12, linestyle="none", label=HEALED)
    axes.set(yscale="log", ylim=(20, 450), xlim=(0.99, 1.33))
    axes.set(xlabel="measured decode speed-up over dense", ylabel="WikiText-2 perplexity (lower is better)")
    ticks = [25, 50, 100, 200, 400]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    axes.set_title("Quality against speed: 4, 8, 12 and 16 of 60 sublayers skipped", fontsize=11, loc="left")
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    plt.close(figure)
    assert math.isclose(dense[1], 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", action="store_true", help="draw the README's figure too")
    options = parser.parse_args()
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
    if options.figure:
        draw(FIGURE)


if __name__ == "__main__":
    main()
