"""tools/online_gain.py. Oracles: figures by hand; `edgeskip eval`'s own records; an uninterrupted run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from online_gain import as_markdown, gains_of, online_gain

from edgeskip.errors import EdgeSkipError
from edgeskip.evaluation.longbench import GOV_REPORT
from edgeskip.evaluation.runner import evaluate
from edgeskip.evaluation.summary import Result
from edgeskip.evaluation.task import Record, Settings

METRIC = GOV_REPORT.metrics[0].name


def record(id_: str, score: float, speed: float, gated: int | None = None) -> Record:
    return Record(
        *(id_, "lossy-skip", {METRIC: score}, 3),
        **{"ttft_s": 1.0, "decode_s": 2 / speed, "decode_tokens": 2, "decode_tokens_per_s": speed, "gated": gated},
    )


@pytest.fixture
def artifacts(tiny_online: Path, tmp_path: Path) -> list[Path]:
    """The same model without its gates, as far as the manifest says, and with them."""
    static = tmp_path / "static"
    shutil.copytree(tiny_online, static)
    manifest = json.loads((static / "edgeskip.json").read_text())
    assert manifest.pop("online")
    (static / "edgeskip.json").write_text(json.dumps(manifest))
    return [static, tiny_online]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    records = [{"context": f"The {word} fox. " * 9, "input": "", "answers": ["A fox."]} for word in ("brown", "a", "b")]
    text = "".join(json.dumps(one) + "\n" for one in records)
    (tmp_path / "longbench_gov_report.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def test_gains_by_hand() -> None:
    """Speed-ups are paired by prompt: 12/10 and 30/20; the scores differ by -0.1 and +0.3."""
    static = Result(GOV_REPORT, "static", (record("0", 0.2, 10.0), record("1", 0.1, 20.0)))
    online = Result(GOV_REPORT, "online", (record("0", 0.1, 12.0, 0), record("1", 0.4, 30.0, 3)))
    one, two = gains_of([static, online])
    assert (one.speedup, one.speedup_interval, one.gated) == (1.0, None, None)
    assert two.speedup == pytest.approx((1.2 + 1.5) / 2)
    assert two.gated == (0, 1.5, 3)
    difference = two.summary.difference
    assert difference is not None
    assert difference.value == pytest.approx(0.1 * GOV_REPORT.metrics[0].scale)
    last = as_markdown([one, two]).splitlines()[-1]
    assert last.startswith("| online | lossy-skip | 25.00 [10.00 … 40.00] | +10.00 [-10.00 … +30.00] | 1.5 [0–3] |")
    assert last.endswith("| 1.350× [1.200 … 1.500] |")


def test_records_are_those_of_eval_and_resume(
    artifacts: list[Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, figures = tmp_path / "records", tmp_path / "gain.json"
    for limit in (1, 3):
        online_gain(artifacts, data=data, limit=limit, tokens=8, threads=1, output=output, json_file=figures)
    logs = {path.name: path.read_bytes() for path in output.iterdir()}
    online_gain(artifacts, data=data, limit=3, tokens=8, threads=1, output=output, json_file=figures)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == logs
    settings = Settings(limit=3, max_new_tokens=8, threads=1)
    (plain,) = evaluate(artifacts[0], ["gov_report"], data=data, settings=settings)
    lines = [json.loads(line) for line in logs["gov_report-static.jsonl"].splitlines()[1:]]
    assert [line["prediction"] for line in lines] == [one.prediction for one in plain.records]
    gains = json.loads(figures.read_text())["gains"]
    gated = [json.loads(line)["gated"] for line in logs["gov_report-on.jsonl"].splitlines()[1:]]
    assert gains[0]["gated"] is None
    assert gains[1]["gated"] == [min(gated), sorted(gated)[1], max(gated)]
    assert "| speed-up |" in capsys.readouterr().out


def test_refuses(artifacts: list[Path], data: Path) -> None:
    with pytest.raises(EdgeSkipError, match="two artifacts have one name"):
        online_gain([artifacts[0], artifacts[0]], data=data)
    with pytest.raises(EdgeSkipError, match="--task perplexity generates nothing"):
        online_gain(artifacts, task="perplexity", data=Path(__file__).parents[2] / "README.md")
    one = Result(GOV_REPORT, "a", (Record("0", "lossless", {METRIC: 0.1}, 1, ttft_s=1.0),))
    with pytest.raises(EdgeSkipError, match="no answer has more than one token"):
        gains_of([one])
