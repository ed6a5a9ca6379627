"""tools/hit_rates.py. Oracles: figures by hand; what the runtime itself watches; an uninterrupted run."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import hit_rates
import pytest
from hit_rates import Request, hit_rate, matrix, numbers, oracle_of, rows_of, share_of, text_named, top
from random_profiles import random_profile
from tiny_models import tiny_checkpoint

import edgeskip
from edgeskip import Online
from edgeskip.errors import EdgeSkipError
from edgeskip.evaluation.longbench import GOV_REPORT
from edgeskip.evaluation.reading import drawn
from edgeskip.exporters.export import ExportPolicy, export_onnx
from edgeskip.exporters.families.source import ModelSource, open_model
from edgeskip.exporters.onnx.formats import weight_format
from edgeskip.exporters.targets import OnlineRequest
from edgeskip.manifest import read_manifest

TOKENS, PROMPT_TOKENS = 12, 40


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return open_model(str(tiny_checkpoint("llama", tmp_path_factory.mktemp("hit-rates") / "model")))


@pytest.fixture(scope="module")
def artifact(source: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense artifact with gates whose answers have no end token."""
    folder = tmp_path_factory.mktemp("online")
    profile, vectors = random_profile(source, folder / "p.json")
    policy, request = ExportPolicy(check=False), OnlineRequest(4, 0.8)
    export_onnx(source, profile, vectors, weight_format("fp32"), folder / "on", policy=policy, online=request)
    for name in ("generation_config.json", "config.json"):
        (folder / "on" / name).write_text("{}", encoding="utf-8")
    config = folder / "on" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token": None}), encoding="utf-8")
    return folder / "on"


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
    hit_rates.online(artifact, data, limit=limit, tokens=TOKENS, log=log, threads=1, oracle="whole", **settings)
    return [json.loads(line) for line in log.read_text().splitlines()[1:]]


def test_online_logs_what_the_runtime_watches(
    artifact: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A window's means are those by which the runtime gates, over that of the whole answer watched alone."""
    found = run(artifact, data, tmp_path / "log.jsonl", 1, beta=None, json_file=tmp_path / "rows.json")
    record = read_manifest(artifact).online
    assert record is not None
    sample = drawn(GOV_REPORT.read([data]), 1)[0]
    with edgeskip.load(artifact, threads=1) as session:
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
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [(row["beta"], row["window"]) for row in rows] == [(0.8, 3), (0.8, 6)]
    assert rows[0]["found_ffns"] == len(gated.gated)
    tops = [f"top {k} of {len(record.ffns)}" for k in (1, 4) if k < len(record.ffns)]  # all of them say nothing
    assert list(rows[0]["shares"]) == ["hit rate", "precision", *tops]
    assert "| P, β 0.8 | requests | FFNs ≥ β |" in capsys.readouterr().out


def test_goes_on_where_it_was(artifact: Path, data: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    expected = run(artifact, data, whole, beta="0.5,0.9")
    run(artifact, data, cut, 2, beta=None)
    cut.write_bytes(cut.read_bytes()[:-20])  # killed while it wrote
    assert run(artifact, data, cut, beta=None) == expected
    before = cut.read_bytes()
    assert len(run(artifact, data, cut, 1, beta="0.1")) == 3
    assert cut.read_bytes() == before == whole.read_bytes()


def test_online_refuses(artifact: Path, data: Path, tmp_path: Path, tiny_early_exit: Path) -> None:
    log = tmp_path / "log.jsonl"
    run(artifact, data, log, 1, beta=None)
    before = log.read_bytes()
    for options, message in (
        ({"windows": "3,6"}, "made with another windows: name another --log"),
        ({"prompt_tokens": 30}, "made with another prompt_tokens"),
        ({"windows": "0,3"}, "--windows 0,3: give numbers of at least 1"),
        ({"windows": "few"}, "--windows 'few': give numbers"),
        ({"beta": "nan"}, "--beta nan"),
    ):
        with pytest.raises(EdgeSkipError, match=message):
            run(artifact, data, log, 1, **{"beta": None, **options})
    with pytest.raises(EdgeSkipError, match="no answer has more than 50 decode steps"):
        run(artifact, data, tmp_path / "other.jsonl", 1, beta=None, windows="50")
    with pytest.raises(EdgeSkipError, match="has no gates: export it with"):
        run(tiny_early_exit, data, log, 1, beta=None)
    with pytest.raises(EdgeSkipError, match="is of no task"):
        run(artifact, data.rename(tmp_path / "book.jsonl"), log, 1, beta=None)
    assert log.read_bytes() == before
    log.write_text("a book\n")
    with pytest.raises(EdgeSkipError, match="not a log of watched requests"):
        hit_rates.read_log(log, {})
    assert log.read_text() == "a book\n"


def test_corpora_from_profiles_kept(
    source: ModelSource, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each corpus is calibrated once; the table and the file are of the profiles' own similarities."""
    made: list[tuple[str, ...]] = []

    def calibrate(*arguments: str | Path) -> None:
        made.append(tuple(map(str, arguments)))
        random_profile(source, Path(arguments[3]), seed=len(made))

    monkeypatch.setattr(hit_rates, "edgeskip", calibrate)
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.jsonl").write_text('{"code": "text"}')
    options: dict[str, Any] = {
        **{"corpus": ["a=a.txt", "b=b.jsonl#code"], "counts": "2,4", "tokens": 64, "data": tmp_path},
        **{"work": tmp_path / "work", "calibrated_on": "b", "json_file": tmp_path / "out.json"},
    }
    monkeypatch.setattr(hit_rates, "model_folder", lambda model, work: work / "models" / model)
    for _ in range(2):
        hit_rates.corpora("tiny", **options)
    assert len(made) == 2
    assert [("--field", "code") in pairwise(call) for call in made] == [False, True]
    assert all(call[-4:] == ("--tokens", "64", "--decode-tokens", "0") for call in made)
    found = json.loads((tmp_path / "out.json").read_text())
    a, b = (found["corpora"][name]["similarity"] for name in "ab")
    assert list(a) == [f"{kind}.{block}" for block in range(4) for kind in ("attn", "ffn")]
    best = [sorted(one, key=one.__getitem__)[-2:] for one in (a, b)]
    rate = len(set(best[0]) & set(best[1])) / 2
    assert found["hit_rates"]["2"] == {"a": {"a": 1, "b": rate}, "b": {"a": rate, "b": 1}}
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "| k, calibrated on b | a | by chance |"
    assert out[2] == f"| 2 | {rate:.1%} | 25.0% |"


def test_corpora_refuses(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    for corpus, more, message in (
        (["a.txt", "b=a.txt"], {}, "write NAME=FILE"),
        (["../a=a.txt", "b=a.txt"], {}, "write NAME=FILE"),
        (["a=a.txt#x,y", "b=a.txt"], {}, "name one field"),
        (["a=none.txt", "b=a.txt"], {}, "there is no file none.txt"),
        (["a=a.txt", "a=a.txt"], {}, "each a name of its own"),
        (["a=a.txt"], {}, "two corpora or more"),
        (["a=a.txt", "b=a.txt"], {"calibrated_on": "c"}, "choose from a, b"),
    ):
        with pytest.raises(EdgeSkipError, match=message):
            hit_rates.corpora("none", corpus=corpus, data=tmp_path, **{"calibrated_on": None, **more})
    with pytest.raises(EdgeSkipError, match="--counts 3: the model has 3 sublayers"):
        matrix({"a": [1, 2, 3], "b": [1, 2, 3]}, [2, 3])


def test_by_hand() -> None:
    assert top([0.5, 0.9, 0.7, 0.9, 0.7], 3) == {1, 3, 2}  # of equal ones the first
    assert hit_rate([3, 2, 1, 0], [2, 0, 3, 1], 2) == 0.5
    assert [share_of(a, b) for a, b in (({1, 2}, {2, 3, 4}), ({1}, set()), (set(), {1}), (set(), set()))] == [
        *(0.5, 0.0, 0.0, 1.0)
    ]
    assert numbers("--beta", "0.9,0.5,0.9", float, -1) == [0.5, 0.9]


def test_a_path_with_fields(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("")
    for reference, data in ((f"x={file}#code", Path("/none")), ("x=a.jsonl#code", tmp_path)):
        text = text_named(reference, data)
        assert (text.name, text.path, text.field, text.sha256[:8]) == ("x", file, "code", "e3b0c442")


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
    lines = hit_rates.online_tables([short, long], requests, "whole").splitlines()
    assert lines[2] == "| P, β 0.75 | requests | FFNs ≥ β | of the oracle | hit rate | precision | top 2 of 3 |"
    assert lines[4] == "| 2 | 2 | 1.0 | 1.0 | 75.0% [50.0% – 100.0%] | 75.0% [50.0% – 100.0%] | 50.0% |"
    assert lines[5] == "| 5 | 1 | 1.0 | 2.0 | 50.0% | 100.0% | 100.0% |"
