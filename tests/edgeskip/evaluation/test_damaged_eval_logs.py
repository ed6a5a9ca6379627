"""Logs of evaluations with values of other types. Oracle: a field of a good log is damaged by hand; it is refused, by
name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeskip.core.errors import EdgeSkipError
from edgeskip.evaluation.log import RecordLog
from edgeskip.evaluation.summary import TaskResult, summarize
from edgeskip.evaluation.task import EvalRecord
from edgeskip.evaluation.tasks import PERPLEXITY

SETTINGS = {"task": "perplexity"}
DEEP = "[" * 100_000 + "]" * 100_000


def _log(path: Path) -> RecordLog:
    return RecordLog(path, SETTINGS, metrics=["nats"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    log = _log(path)
    for number in range(3):
        log.add(EvalRecord(str(number), "dense", {"nats": 2.0 + number}, 12, "x", "eos", 20, None, 0.1, 0.5, 11, 22.0))
    assert list(_log(path).records) == ["0", "1", "2"]
    return path


DAMAGED = [
    ("scores", {}, "a record has no nats"),
    ("scores", {"nats": "2"}, None),  # a number all the same
    ("scores", {"nats": "x"}, r"scores\.nats"),
    ("scores", {"nats": [1]}, r"scores\.nats"),
    ("scores", {"nats": 1e300}, r"scores\.nats"),
    ("scores", "nats", "scores"),
    ("scores", None, "scores"),
    ("tokens", "many", "tokens"),
    ("tokens", -1, "tokens"),
    ("tokens", 10**30, "tokens"),
    ("tokens", 1.5, "tokens"),
    ("ttft_s", "0.1 s", "ttft_s"),
    ("ttft_s", -1, "ttft_s"),
    ("decode_s", 5e-324, "decode_s"),
    ("decode_tokens", "a", "decode_tokens"),
    ("gated", [], "gated"),
    ("cut_from", {}, "cut_from"),
    ("label", "fine", "label"),
    ("id", None, "id"),
    ("x" * 5000, 1, "unknown field 'xxx"),
]


@pytest.mark.parametrize(("field", "value", "told"), DAMAGED, ids=range(len(DAMAGED)))
def test_fields(path: Path, field: str, value: object, told: str | None) -> None:
    lines = path.read_text().splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | {field: value})
    path.write_text("\n".join(lines) + "\n")
    if told is None:
        assert list(_log(path).records) == ["0", "1", "2"]
        return
    with pytest.raises(EdgeSkipError, match=rf"not an evaluation log \(.*{told}.*\)") as caught:
        _log(path)
    assert len(str(caught.value).removeprefix(str(path))) < 300


LINES = ["{}", "[]", "1", "null", DEEP, "NaN", '{"format": "edgeskip-eval-1"}', '{"format": [0]}', '{"format": 1}']


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
@pytest.mark.parametrize("at", [0, 1])
def test_lines(path: Path, at: int, line: str) -> None:
    lines = path.read_text().splitlines()
    lines[at] = line
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(EdgeSkipError, match=r"not an evaluation log \(.*\)"):
        _log(path)


@pytest.mark.parametrize("data", [b"\n", b"\n\n\n", b"\xff\n", b"\0\n"])
def test_other_files(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(EdgeSkipError, match="not an evaluation log"):
        _log(path)


def test_a_loss_beyond_every_float_is_still_a_number() -> None:
    """exp(1000) is none."""
    records = tuple(EvalRecord(str(n), "lossy-skip", {"nats": 1000.0 + n}, 12) for n in range(2))
    (summary,) = summarize([TaskResult(PERPLEXITY, "x", records)])
    assert np.isfinite(summary.value)
