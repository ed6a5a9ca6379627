"""online_gain.py. Oracles: figures by hand; `edgeskip eval`'s own records; an uninterrupted run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from online_gain import gains_of, online_gain, table_of

from edgeskip.core.errors import EdgeSkipError
from edgeskip.evaluation.longbench import GOV_REPORT
from edgeskip.evaluation.runner import evaluate
from edgeskip.evaluation.summary import TaskResult
from edgeskip.evaluation.task import EvalRecord, EvalSettings

METRIC = GOV_REPORT.metrics[0].name


def record(id_: str, score: float, speed: float, gated: int | None = None) -> EvalRecord:
    return EvalRecord(
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
    """Speed-ups of pairs: 12/10, 30/20, and an answer of a single token; scores differ by -0.1, +0.3, 0."""
    single = EvalRecord("2", "lossy-skip", {METRIC: 0.0}, 1, ttft_s=1.0, gated=0)
    static = TaskResult(GOV_REPORT, "static", (record("0", 0.2, 10.0), record("1", 0.1, 20.0), single))
    online = TaskResult(GOV_REPORT, "online", (record("0", 0.1, 12.0, 0), record("1", 0.4, 30.0, 3), single))
    one, two = gains_of([static, online])
    assert (one.speedup, one.speedup_interval, one.pairs) == (1.0, None, 2)
    assert two.speedup == pytest.approx((1.2 * 1.5) ** 0.5)
    assert two.speedup_interval == pytest.approx((1.2, 1.5))
    assert two.gated == (0, 0, 3)
    difference = two.summary.difference
    assert difference is not None
    assert difference.value == pytest.approx(0.2 / 3 * GOV_REPORT.metrics[0].scale)
    last = table_of([one, two]).markdown().splitlines()[-1]
    assert last.startswith("| online | lossy-skip | 16.67 [")
    assert "| +6.67 [" in last
    assert "| 0 [0–3] |" in last
    assert last.endswith("| 1.342× [1.200 … 1.500] (2 of them) |")


@pytest.mark.slow
def test_records_are_those_of_eval_and_resume(
    artifacts: list[Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What lacks one of a pair is answered by both again; texts are those of eval."""
    output, figures = tmp_path / "records", tmp_path / "gain.json"
    for limit in (1, 3):
        online_gain(artifacts, data=data, limit=limit, tokens=8, threads=1, output=output, json_file=figures)
    logs = {path.name: path.read_bytes() for path in output.iterdir()}
    static, online = sorted(logs, reverse=True)
    online_gain(artifacts, data=data, limit=3, tokens=8, threads=1, output=output, json_file=figures)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == logs  # nothing to do
    (output / static).write_bytes(logs[static][:-20])  # killed while it wrote
    online_gain(artifacts, data=data, limit=3, tokens=8, threads=1, output=output, json_file=figures)
    assert len((output / online).read_bytes().splitlines()) == len(logs[online].splitlines()) + 1
    for name, artifact, strategy in ((static, artifacts[0], "plain"), (online, artifacts[1], "online")):
        lines = {one["id"]: one for one in map(json.loads, (output / name).read_bytes().splitlines()[1:])}
        settings = EvalSettings(limit=3, max_new_tokens=8, threads=1, strategy=strategy)
        (result,) = evaluate(artifact, ["gov_report"], data=data, settings=settings)
        assert {one.id: (one.prediction, one.gated) for one in result.records} == {
            id_: (line["prediction"], line["gated"]) for id_, line in lines.items()
        }
        gated = [one.gated for one in result.records if one.gated is not None]
    gains = json.loads(figures.read_text())["data"]
    assert gains[0]["gated"] is None
    assert gains[1]["gated"] == [min(gated), sorted(gated)[1], max(gated)]
    assert max(gated) > 0
    assert "| speed-up |" in capsys.readouterr().out
    with pytest.raises(EdgeSkipError, match="another max_new_tokens"):
        online_gain(artifacts, data=data, limit=3, tokens=7, threads=1, output=output)


def test_refuses(artifacts: list[Path], data: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeSkipError, match="two entries are called static"):
        online_gain([artifacts[0], artifacts[0]], data=data)
    with pytest.raises(EdgeSkipError, match="--task perplexity generates nothing"):
        online_gain(artifacts, task="perplexity", data=Path(__file__).parents[3] / "README.md")
    with pytest.raises(EdgeSkipError, match="is a folder, not a file"):
        online_gain(artifacts, data=data, json_file=tmp_path)
    (artifacts[0] / "model.onnx").unlink()
    with pytest.raises(EdgeSkipError, match=r"model\.onnx"):
        online_gain(artifacts, data=data, limit=1, tokens=8, threads=1)
    one = TaskResult(GOV_REPORT, "a", (EvalRecord("0", "lossless", {METRIC: 0.1}, 1, ttft_s=1.0),))
    with pytest.raises(EdgeSkipError, match="no answer has more than one token"):
        gains_of([one])
