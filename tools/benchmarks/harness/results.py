"""What every script shows and keeps: tables of text, bounds and whether they are met, everything measured as JSON."""

from __future__ import annotations

import json
import os
import shlex
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgeskip.core.files import replace_file
from edgeskip.core.machine import this_machine
from edgeskip.core.requirements import installed_version

BUSY_CORES = 0.1  # more than this used by other processes makes figures doubtful
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "llama-cpp-python", "torch", "transformers")


@dataclass(frozen=True)
class Spread:
    """A median over rounds with the least and the greatest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        numbers = list(values)
        return cls(statistics.median(numbers), min(numbers), max(numbers))

    @classmethod
    def of_ratios(cls, ours: Iterable[float], theirs: Iterable[float]) -> Spread:
        """Of ours over theirs, paired by round, so that a machine that drifts slows both of a pair."""
        return cls.of(a / b for a, b in zip(ours, theirs, strict=True))

    def times(self, factor: float) -> Spread:
        return Spread(self.median * factor, self.low * factor, self.high * factor)

    def text(self, digits: int) -> str:
        """`median [least – greatest]`."""
        return f"{self.median:.{digits}f} [{self.low:.{digits}f} – {self.high:.{digits}f}]"


@dataclass(frozen=True)
class Target:
    """A bound and what was measured against it, by the median."""

    what: str
    bound: float
    measured: Spread
    at_least: bool = True

    @property
    def met(self) -> bool:
        return self.measured.median >= self.bound if self.at_least else self.measured.median <= self.bound


@dataclass(frozen=True)
class Table:
    """Text by columns; `title` heads the first column if that has no name."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass
class Results:
    """What a script found. `data` is everything measured, in the script's own form."""

    name: str
    setting: Mapping[str, Any]
    tables: Sequence[Table]
    targets: Sequence[Target] = ()
    data: Any = None
    notes: Sequence[str] = ()
    others_cores: Iterable[float | None] = ()
    versions: Mapping[str, str] = field(default_factory=lambda: versions_of(PACKAGES))
    folder: str = "tools/benchmarks"

    @property
    def met(self) -> bool:
        return all(target.met for target in self.targets)

    def markdown(self) -> str:
        """Return the setting in one line, the tables, the bounds, and a warning if the machine was busy."""
        shown = {name.replace("_", " "): value for name, value in self.setting.items() if _is_short(value)}
        setting = ", ".join(f"{name} {value}" for name, value in shown.items())
        parts = [f"{setting}; medians [least – greatest]; {machine_in_words()}"]
        parts += [table.markdown() for table in (*self.tables, *self._targets_table()) if table.rows]
        if self.doubts:
            parts.append(self.doubts)
        return "\n\n".join([*parts, *self.notes])

    @property
    def doubts(self) -> str:
        busiest = max((one for one in self.others_cores if one is not None), default=0.0)
        if busiest <= BUSY_CORES:
            return ""
        return f"Doubtful: other processes kept {busiest:.2f} cores busy meanwhile. Run this on a quiet machine."

    def _targets_table(self) -> list[Table]:
        rows = [
            [
                target.what,
                f"{'≥' if target.at_least else '≤'} {target.bound:g}",
                target.measured.text(3),
                "yes" if target.met else "NO",
            ]
            for target in self.targets
        ]
        return [Table("Bounds", ["bound on", "bound", "measured", "met"], rows)]

    def as_json(self) -> dict[str, Any]:
        """Return the form of every script: members of `tables` are those of docs/results/data."""
        created = datetime.now(UTC)
        common = {
            "date": created.date().isoformat(),
            "machine": machine_in_words(),
            "versions": ", ".join(f"{name} {version}" for name, version in self.versions.items()),
            "command": shlex.join(["python", f"{self.folder}/{self.name}.py", *sys.argv[1:]]),
            "intro": [],
        }
        notes = [*self.notes, *([self.doubts] if self.doubts else [])]
        load = {"load_average": list(os.getloadavg()), "glibc_tunables": os.environ.get("GLIBC_TUNABLES")}
        return {
            "name": self.name,
            "created": created.isoformat(timespec="seconds"),
            "setting": {**self.setting, "machine": {**asdict(this_machine()), **load}},
            "tables": [
                {"title": table.title, **common, "columns": table.columns, "rows": table.rows, "notes": notes}
                for table in self.tables
            ],
            "targets": [{**asdict(target), "met": target.met} for target in self.targets],
            "data": self.data,
        }

    def publish(self, json_file: Path | None) -> None:
        """Print the tables to stdout and write everything to `json_file` if one is named."""
        if json_file:
            text = json.dumps(self.as_json(), indent=1, ensure_ascii=False, default=_plain)
            replace_file(json_file, f"{text}\n".encode())
        print(self.markdown())


def machine_in_words() -> str:
    """Such as `2 cores of AMD EPYC`."""
    machine = this_machine()
    return f"{machine.usable_cores} cores of {machine.processor}"


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those packages that are installed here."""
    return {name: version for name in packages if (version := installed_version(name))}


def _is_short(value: object) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, str) and len(value) < 60)


def _plain(value: Any) -> Any:
    """For json: dataclasses as objects, anything else as text."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
