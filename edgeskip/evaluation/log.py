"""The records of one task on one artifact, in a file that is appended to record by record: what was cut off goes on.

The first line says with which settings they were made; a log of others is refused, not mixed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeskip.core.bounds import dataclass_from
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.json_file import parse_json
from edgeskip.core.version import __version__
from edgeskip.evaluation.task import EvalRecord

FORMAT = "edgeskip-eval-1"


class RecordLog:
    """`records` by id, those of earlier runs included; without a path they are in memory only."""

    def __init__(
        self, path: Path | None, settings: Mapping[str, Any], *, metrics: Sequence[str] = (), overwrite: bool = False
    ) -> None:
        """Read what is at `path`; every record must have the `metrics`.

        Raises:
            EdgeSkipError: If it holds records of other settings or something else, unless `overwrite`.
        """
        self.records: dict[str, EvalRecord] = {}
        self._path = path
        # As JSON gives it back: tuples are lists there.
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        found = None if path is None or overwrite or not path.exists() else self._resume(path, metrics)
        self._begins_anew, self._keep = found is None, found

    def add(self, record: EvalRecord) -> None:
        """Append and flush; the file is made, or cut back to its last whole line, with the first record."""
        self.records[record.id] = record
        if self._path is None:
            return
        if self._begins_anew:
            header = {"format": FORMAT, "version": __version__, "settings": self._settings}
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(header, ensure_ascii=False) + "\n", encoding="utf-8")
        elif self._keep is not None:
            with self._path.open("rb+") as file:
                file.truncate(self._keep)
        self._begins_anew, self._keep = False, None
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")
            file.flush()

    def _resume(self, path: Path, metrics: Sequence[str]) -> int | None:
        """Take the records of whole lines and return their bytes; None if not even the first line is whole."""
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if not whole and data.startswith(b'{"format"'[: len(data)]):
            return None
        try:
            first, *lines = [parse_json(line) for line in whole.split(b"\n") if line] or [None]
            if not isinstance(first, dict) or first.get("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            before = first.get("settings")
            if not isinstance(before, dict):
                raise ValueError("it does not say its settings")
            records = [dataclass_from(EvalRecord, line) for line in lines]
            missing = [name for name in metrics for record in records if name not in record.scores]
            if missing:
                raise ValueError(f"a record has no {missing[0]}")
        except ValueError as error:
            raise EdgeSkipError(
                f"{path} is not an evaluation log ({error}); choose another -o or add --overwrite"
            ) from None
        if before != self._settings:
            names = [name for name in {**before, **self._settings} if before.get(name) != self._settings.get(name)]
            raise EdgeSkipError(
                f"{path} is of an evaluation with another {', '.join(names)}: choose another -o or add --overwrite"
            )
        self.records = {record.id: record for record in records}
        return len(whole)
