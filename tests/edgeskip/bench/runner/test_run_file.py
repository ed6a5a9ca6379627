"""The log of a run. Oracle: what was added must be read back, whatever happened to the end of the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from made_runs import made_cell, made_device, made_failure, made_header, made_run, made_sample, made_target, write_run

from edgeskip.bench.runner.run_file import RunLog, as_json, read_run
from edgeskip.core.errors import EdgeSkipError


def example() -> list[object]:
    cell = made_cell()
    return [made_target(), made_device(), made_sample(cell, 0, tg=1), made_failure(made_cell("skip8"))]


def test_what_is_added_is_read_back(tmp_path: Path) -> None:
    run = made_run(*example())  # type: ignore[arg-type]
    assert read_run(write_run(run, tmp_path / "run.jsonl")) == run


def test_one_json_object_is_read_too(tmp_path: Path) -> None:
    run = made_run(*example())  # type: ignore[arg-type]
    for text in (json.dumps(as_json(run)), json.dumps(as_json(run), indent=1)):
        (tmp_path / "run.json").write_text(text)
        assert read_run(tmp_path / "run.json") == run


def test_a_byte_order_mark_is_no_part_of_it(tmp_path: Path) -> None:
    """As Windows' editors save a file."""
    run = made_run(*example())  # type: ignore[arg-type]
    path = write_run(run, tmp_path / "run.jsonl")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_run(path) == run


def test_every_record_is_on_disk_when_add_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append(number), sync(number))[1])
    log = RunLog(made_header(), tmp_path / "run.jsonl")
    log.add(made_target())
    assert len(synced) == 2
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == 2


def test_a_target_seen_again_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    run = made_run(made_target(), made_target(size_bytes=5))
    assert run.targets["dense"].size_bytes == 5
    path = tmp_path / "run.jsonl"
    log = RunLog(made_header(), path)
    log.add(made_target())
    log.add(made_target(size_bytes=5))
    assert read_run(path).targets == run.targets


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = write_run(made_run(*example()), tmp_path / "run.jsonl")  # type: ignore[arg-type]
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    assert read_run(path).failures == []
    assert len(read_run(path).samples) == 1


def test_an_existing_file_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").write_text("mine")
    with pytest.raises(EdgeSkipError, match=r"run\.jsonl exists: choose another"):
        RunLog(made_header(), tmp_path / "run.jsonl")
    assert (tmp_path / "run.jsonl").read_text() == "mine"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{}",
        b"[1]",
        b"nonsense\n",
        b'{"kind": "run"}\n',
        made_header().model_dump_json().encode() + b'\n{"kind": "sample"}\n',
        made_header().model_dump_json().encode() + b'\n{"kind": "other"}\n',
        made_header().model_dump_json().encode() + b'\nnonsense\n{"kind": "sample"}\n',
        b"[" * 100_000,
    ],
)
def test_what_is_no_run_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.jsonl").write_bytes(content)
    with pytest.raises(EdgeSkipError, match="a benchmark run") as raised:
        read_run(tmp_path / "run.jsonl")
    assert "\n" not in str(raised.value)


def test_two_runs_in_one_file(tmp_path: Path) -> None:
    line = made_header().model_dump_json() + "\n"
    (tmp_path / "run.jsonl").write_text(line + line)
    with pytest.raises(EdgeSkipError, match="holds two runs"):
        read_run(tmp_path / "run.jsonl")


def test_a_line_cut_within_a_character_is_left_out_too(tmp_path: Path) -> None:
    path = write_run(made_run(made_device(name="日本")), tmp_path / "run.jsonl")
    data = path.read_bytes()
    path.write_bytes(data[: data.index("日".encode()) + 1])
    assert read_run(path).devices == {}
