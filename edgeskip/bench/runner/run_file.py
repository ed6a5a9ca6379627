"""The file of a run: JSONL, appended to and flushed to disk record by record, so that nothing measured is lost."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from edgeskip.bench.schema import FORMAT, Device, LogRecord, RoundFailure, RoundResult, RunHeader, Target
from edgeskip.core.bounds import first_problem
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.json_file import parse_json

MAX_NAMES = 1000  # targets, and devices; a run has a few, and names are compared with each other
_LINE: TypeAdapter[LogRecord] = TypeAdapter(Annotated[LogRecord, Field(discriminator="kind")])


@dataclass
class BenchRun:
    """What a run has measured so far; targets and devices by name and id, in the order they came."""

    header: RunHeader
    targets: dict[str, Target] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)
    samples: list[RoundResult] = field(default_factory=list)
    failures: list[RoundFailure] = field(default_factory=list)

    def add(self, line: Target | Device | RoundResult | RoundFailure) -> None:
        """Add a record; a target or device replaces the one of the same name."""
        match line:
            case Target():
                self.targets[line.name] = line
            case Device():
                self.devices[line.id] = line
            case RoundResult():
                self.samples.append(line)
            case RoundFailure():
                self.failures.append(line)

    @property
    def lines(self) -> list[LogRecord]:
        return [self.header, *self.targets.values(), *self.devices.values(), *self.samples, *self.failures]


class RunLog:
    """Adds records to `run` and, if there is a path, to the file."""

    def __init__(self, header: RunHeader, path: Path | None) -> None:
        """Make the file. Raises EdgeSkipError if `path` exists."""
        self.run = BenchRun(header)
        self.path = path
        if path is not None:
            refuse_log(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.touch(exist_ok=False)
            except FileExistsError:  # another bench made it meanwhile
                refuse_log(path)
            self._append(header)

    def add(self, line: Target | Device | RoundResult | RoundFailure) -> None:
        if self.path is not None:
            self._append(line)
        self.run.add(line)

    def _append(self, line: LogRecord) -> None:
        assert self.path is not None
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())


def refuse_log(path: Path) -> None:
    """Raise EdgeSkipError if `path` exists."""
    if path.exists():
        raise EdgeSkipError(f"{path} exists: choose another --output; earlier results are never overwritten")


def read_run(path: Path) -> BenchRun:
    """Read a run: the JSONL file, or what `bench --format json` or `jsonl` printed. Raises EdgeSkipError if it is not
    one.

    A last line that was cut off in the middle is left out: a run may have been killed as it wrote.
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        whole = data.rfind(b"\n") + 1
        if not whole or error.start < whole:
            raise EdgeSkipError(
                f"{path} is not a benchmark run (not UTF-8 text); give a file that edgeskip bench wrote"
            ) from None
        text = data[:whole].decode("utf-8-sig")  # cut off within a character of the last line
    try:
        lines = _json_lines(text)
        header = RunHeader.model_validate(lines[0] if lines else {})
        run = BenchRun(header)
        for line in lines[1:]:
            record = _LINE.validate_python(line)
            if isinstance(record, RunHeader):
                raise EdgeSkipError(f"{path} holds two runs; give them as two files")
            run.add(record)
            if max(len(run.targets), len(run.devices)) > MAX_NAMES:
                raise EdgeSkipError(
                    f"{path} names more than {MAX_NAMES:,} targets or devices; give a file that edgeskip bench wrote"
                )
    except ValidationError as error:
        raise EdgeSkipError(
            f"{path} is not a benchmark run ({first_problem(error)}); give a file that edgeskip bench wrote"
        ) from None
    except ValueError as error:
        raise EdgeSkipError(f"{path} is not a benchmark run ({error}); give a file that edgeskip bench wrote") from None
    return run


def as_json(run: BenchRun) -> dict[str, Any]:
    """Return the run as one JSON object, which `read_run` reads back."""
    return {"format": FORMAT, "lines": [line.model_dump(mode="json") for line in run.lines]}


def _json_lines(text: str) -> list[Any]:
    stripped = text.strip()
    if "\n" not in stripped or stripped.startswith("{\n"):
        whole = parse_json(stripped)
        if isinstance(whole, dict) and whole.get("format") == FORMAT and isinstance(whole.get("lines"), list):
            return list(whole["lines"])
    lines = stripped.split("\n")
    found = []
    for number, line in enumerate(lines):
        try:
            found.append(parse_json(line))
        except ValueError:
            if number and number == len(lines) - 1 and not text.endswith("\n"):
                break
            raise
    return found
