"""A log that goes on where it was cut off, and refuses to mix. Oracle: the file's lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeskip.core.errors import EdgeSkipError
from edgeskip.evaluation.log import RecordLog
from edgeskip.evaluation.task import EvalRecord

SETTINGS = {"task": "topv2", "strategy": "plain", "data": {"a": "b"}}
RECORDS = [EvalRecord(str(n), "dense", {"exact": n / 2}, tokens=n, prediction="é\n“x”") for n in range(3)]


def _log(path: Path, settings: dict[str, object] = SETTINGS, *, overwrite: bool = False) -> RecordLog:
    return RecordLog(path, settings, overwrite=overwrite)


def test_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.jsonl"
    log = _log(path)
    assert not path.parent.exists()  # nothing is made before there is something to keep
    for record in RECORDS[:2]:
        log.add(record)
    again = _log(path)
    assert list(again.records.values()) == RECORDS[:2]
    again.add(RECORDS[2])
    header, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert header["settings"] == SETTINGS
    assert [line["id"] for line in lines] == ["0", "1", "2"]


@pytest.mark.parametrize("kept", range(1, 60, 7))
def test_a_torn_last_line_is_done_again(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "log.jsonl"
    log = _log(path)
    log.add(RECORDS[0])
    whole = path.read_bytes()
    log.add(RECORDS[1])
    path.write_bytes(path.read_bytes()[: len(whole) + kept])
    again = _log(path)
    assert list(again.records) == ["0"]
    again.add(RECORDS[1])
    assert list(_log(path).records.values()) == RECORDS[:2]


@pytest.mark.parametrize("kept", [0, 1, 5, 30])
def test_a_torn_header_begins_anew(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "log.jsonl"
    _log(path).add(RECORDS[0])
    path.write_bytes(path.read_bytes()[:kept])
    log = _log(path)
    log.add(RECORDS[1])
    assert list(_log(path).records) == ["1"]


def test_other_settings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    _log(path).add(RECORDS[0])
    before = path.read_bytes()
    other = {**SETTINGS, "strategy": "speculative", "new": 1}
    with pytest.raises(EdgeSkipError, match="is of an evaluation with another strategy, new: choose another -o"):
        _log(path, other)
    assert path.read_bytes() == before
    _log(path, other, overwrite=True).add(RECORDS[1])
    assert list(_log(path, other).records) == ["1"]


@pytest.mark.parametrize("content", ["hello\n", "[]\n", '{"format": "other"}\n', "hello", b"\xff\n"])
def test_something_else_is_not_overwritten(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "log.jsonl"
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(data)
    with pytest.raises(EdgeSkipError, match="not an evaluation log"):
        _log(path)
    assert path.read_bytes() == data


def test_a_damaged_line_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = _log(path)
    log.add(RECORDS[0])
    with path.open("a") as file:
        file.write("{}\n")
    log.add(RECORDS[1])
    with pytest.raises(EdgeSkipError, match="not an evaluation log"):
        _log(path)
