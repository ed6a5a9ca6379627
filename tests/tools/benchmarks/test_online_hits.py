"""tools/benchmarks/online_hits.py. Oracles: figures by hand; what the runtime itself watches; an uninterrupted run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import online_hits
import pytest
from online_hits import Request, oracle_of, rows_of, share_of

import edgeskip
from edgeskip import Online
from edgeskip.artifacts.manifest import read_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.evaluation.datasets import drawn
from edgeskip.evaluation.longbench import GOV_REPORT

TOKENS, PROMPT_TOKENS = 12, 40


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three reports, longer than PROMPT_TOKENS."""
    path = tmp_path / "longbench_gov_report.jsonl"
    records = [
        {"context": f"The {word} fox. " * 20, "input": "", "answers": ["A fox."]} for word in ("brown", "a", "b")
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def run(artifact: Path, data: Path, log: Path, limit: int = 3, **options: Any) -> list[dict[str, Any]]:
    """The log's requests, as they are written."""
    settings: dict[str, Any] = {"prompt_tokens": PROMPT_TOKENS, "windows": "3,6,50", "counts": "1,4", **options}
    online_hits.online_hits(artifact, data, limit=limit, tokens=TOKENS, log=log, threads=1, oracle="whole", **settings)
    requests: list[dict[str, Any]] = json.loads(log.read_text())["requests"]
    return requests


def test_online_logs_what_the_runtime_watches(
    tiny_online: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A window's means are those by which the runtime gates, over that of the whole answer watched alone."""
    found = run(tiny_online, data, tmp_path / "log.jsonl", 1, beta=None, json_file=tmp_path / "rows.json")
    record = read_manifest(tiny_online).online
    assert record is not None
    sample = drawn(GOV_REPORT.read([data]), 1)[0]
    with edgeskip.load(tiny_online, threads=1) as session:
        whole = session.encode(sample.prompt)
        ids = [*whole[: PROMPT_TOKENS // 2].tolist(), *whole[-PROMPT_TOKENS // 2 :].tolist()]
        watched, gated = (
            session.generate(ids, max_tokens=TOKENS, online=policy).stats.online
            for policy in (Online(gate=False), Online(window=3))
        )
    assert watched is not None
    assert gated is not None
    (one,) = found
    assert (one["id"], one["prompt_tokens"], one["cut_from"]) == (sample.id, PROMPT_TOKENS, len(whole))
    assert one["steps"] == watched.watched_steps == TOKENS - 1
    assert list(one["first"]) == ["3", "6"]  # no answer outlasts 50
    assert one["first"]["3"] == list(gated.similarity.values())
    assert one["whole"] == list(watched.similarity.values())
    rows = json.loads((tmp_path / "rows.json").read_text())["data"]
    assert [(row["beta"], row["window"]) for row in rows] == [(0.8, 3), (0.8, 6)]
    assert rows[0]["found_ffns"] == len(gated.gated)
    tops = [f"top {k} of {len(record.ffns)}" for k in (1, 4) if k < len(record.ffns)]  # all of them say nothing
    assert list(rows[0]["shares"]) == ["hit rate", "precision", *tops]
    assert "| P, β 0.8 | requests | FFNs ≥ β |" in capsys.readouterr().out


def test_goes_on_where_it_was(tiny_online: Path, data: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    expected = run(tiny_online, data, whole, beta="0.5,0.9")
    run(tiny_online, data, cut, 2, beta=None)
    assert run(tiny_online, data, cut, beta=None) == expected
    before = cut.read_bytes()
    assert len(run(tiny_online, data, cut, 1, beta="0.1")) == 3
    assert cut.read_bytes() == before == whole.read_bytes()


def test_online_refuses(tiny_online: Path, data: Path, tmp_path: Path, tiny_early_exit: Path) -> None:
    log = tmp_path / "log.jsonl"
    run(tiny_online, data, log, 1, beta=None)
    before = log.read_bytes()
    for options, message in (
        ({"windows": "3,6"}, "made with another windows: name another --log"),
        ({"prompt_tokens": 30}, "made with another prompt_tokens"),
        ({"windows": "0,3"}, "--windows 0,3: give numbers of at least 1"),
        ({"windows": "few"}, "--windows 'few': give numbers"),
        ({"beta": "nan"}, "--beta nan"),
        ({"beta": "1.5"}, "a similarity is at most 1"),
    ):
        with pytest.raises(EdgeSkipError, match=message):
            run(tiny_online, data, log, 1, **{"beta": None, **options})
    with pytest.raises(EdgeSkipError, match="no answer has more than 50 decode steps"):
        run(tiny_online, data, tmp_path / "other.jsonl", 1, beta=None, windows="50")
    with pytest.raises(EdgeSkipError, match="has no gates: export it with"):
        run(tiny_early_exit, data, log, 1, beta=None)
    with pytest.raises(EdgeSkipError, match="is of no task"):
        run(tiny_online, data.rename(tmp_path / "book.jsonl"), log, 1, beta=None)
    assert log.read_bytes() == before
    log.write_text("a book\n")
    with pytest.raises(EdgeSkipError, match="not a log of watched requests"):
        online_hits.read_log(log, {})
    assert log.read_text() == "a book\n"


def test_share_by_hand() -> None:
    assert [share_of(a, b) for a, b in (({1, 2}, {2, 3, 4}), ({1}, set()), (set(), {1}), (set(), set()))] == [
        *(0.5, 0.0, 0.0, 1.0)
    ]


def test_rows_by_hand() -> None:
    """Two requests of three FFNs; one ends before the longer window."""
    requests = [
        Request("0", 9, None, 10, {"2": [0.9, 0.5, 0.8], "5": [0.9, 0.7, 0.6]}, [0.9, 0.8, 0.6]),
        Request("1", 9, None, 4, {"2": [0.1, 0.2, 0.3]}, [0.2, 0.2, 0.1]),
    ]
    short, long = rows_of(requests, [2, 5], [0.75], [2, 3], rest=False)
    assert (short.window, short.requests, short.found_ffns, short.true_ffns) == (2, 2, 1, 1)
    # found {0, 2}, true {0, 1}; then neither: by agreement all is right. Top 2: {0, 2} and {0, 1}; {1, 2} and {0, 1}.
    assert short.shares == pytest.approx({"hit rate": 0.75, "precision": 0.75, "top 2 of 3": 0.5})
    assert short.intervals == {"hit rate": (0.5, 1.0), "precision": (0.5, 1.0), "top 2 of 3": None}
    assert (long.window, long.requests, long.found_ffns, long.true_ffns) == (5, 1, 1, 2)
    assert long.shares == {"hit rate": 0.5, "precision": 1, "top 2 of 3": 1}
    # (10 × 0.9 − 2 × 0.9) / 8, (10 × 0.8 − 2 × 0.5) / 8, (10 × 0.6 − 2 × 0.8) / 8
    assert oracle_of(requests[0], 2, rest=True) == pytest.approx([0.9, 0.875, 0.55])
    (table,) = online_hits.tables_of([short, long])
    lines = table.markdown().splitlines()
    assert lines[0] == "| P, β 0.75 | requests | FFNs ≥ β | of the oracle | hit rate | precision | top 2 of 3 |"
    assert lines[2] == "| 2 | 2 | 1.0 | 1.0 | 75.0% [50.0% – 100.0%] | 75.0% [50.0% – 100.0%] | 50.0% |"
    assert lines[3] == "| 5 | 1 | 1.0 | 2.0 | 50.0% | 100.0% | 100.0% |"
