"""The GGUF benchmark: turns, ratios, predictions, llama-bench's answers. Oracle: hand calculation, a fake worker."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gguf_plans
import harness.driver
import pytest
from gguf_plans import check_names, gguf_entries, label_of
from harness.driver import Contestant, Run, run_afresh, take_turns
from harness.figures import Spread
from harness.gguf_report import Entry, as_json, as_markdown, rows_of, targets_of
from harness.llama_bench import run_of
from harness.work_left import Prediction, Work

from edgeskip.core.errors import EdgeSkipError

FAKE = Path(__file__).parent / "harness" / "fake_worker.py"
SETTING = {
    "prompt_tokens": 4,
    "new_tokens": 3,
    "threads": 2,
    "rounds": 2,
    "machine": {"processor": "a CPU", "usable_cores": 2},
}


def run(prefill_s: float, token_s: float, others_cores: float | None = None) -> Run:
    return Run((1, 2, 3), prefill_s, (token_s, token_s), 1 << 20, others_cores)


def entry(name: str, label: str, predicted: Prediction | None = None) -> Entry:
    return Entry(name, label, lambda: run(1, 1), "dense" if predicted else None, predicted)


ENTRIES = [
    entry("dense", "dense"),
    entry("skip8", "lossy-skip", Prediction(decode_bytes_ratio=0.8, decode_flops_ratio=0.75, prefill_flops_ratio=0.5)),
    entry("other", ""),
]
# The machine is half as fast in round 2: ratios are the same in both.
RUNS = {
    "dense": [run(1.0, 0.1), run(2.0, 0.2)],
    "skip8": [run(0.6, 0.09), run(1.2, 0.18)],
    "other": [run(2.0, 0.4), run(2.0, 0.4)],
}


def test_ratios_are_paired_and_set_against_the_prediction() -> None:
    rows = rows_of(ENTRIES, RUNS, prompt_tokens=4)
    assert [row.decode for row in rows if row.name != "skip8"] == [None, None]
    skip = rows[1]
    assert skip.decode is not None
    assert skip.prefill is not None
    assert (skip.decode.median, skip.decode.low, skip.decode.high) == pytest.approx((0.9, 0.9, 0.9))
    assert skip.prefill.median == pytest.approx(0.6)
    (target,) = targets_of(rows)
    assert target.measured.median == pytest.approx(0.9 / 0.8)  # the larger of the two ratios predicts
    assert not target.met


def test_markdown() -> None:
    rows = rows_of(ENTRIES, RUNS, prompt_tokens=4)
    lines = as_markdown(rows, targets_of(rows), SETTING).splitlines()
    assert lines[2].startswith("| | pp4 tok/s | tg3 tok/s | prefill time ÷ | predicted |")
    assert lines[4] == "| dense | 3 [2 – 4] | 7.5 [5.0 – 10.0] |  |  |  |  |  |  |"
    assert lines[5] == (
        "| skip8 (lossy-skip) | 5 [3 – 7] | 8.3 [5.6 – 11.1] | 0.600 [0.600 – 0.600] | 0.500 | 1.200 "
        "| 0.900 [0.900 – 0.900] | 0.800 | 1.125 |"
    )
    assert lines[6].startswith("| other | 2 [2 – 2] |")
    assert lines[-1] == "| time per token of skip8 over its prediction | ≤ 1.05 | 1.125 [1.125 – 1.125] | NO |"


def test_a_busy_machine_is_told() -> None:
    runs = {"dense": [run(1.0, 0.1, others_cores=0.7)]}
    text = as_markdown(rows_of(ENTRIES[:1], runs, 4), [], SETTING)
    assert text.splitlines()[-1].startswith("Doubtful: other processes kept 0.70 cores busy")


def test_json_holds_every_run() -> None:
    rows = rows_of(ENTRIES, RUNS, prompt_tokens=4)
    result = json.loads(json.dumps(as_json(rows, targets_of(rows), RUNS, SETTING)))
    assert result["setting"]["rounds"] == 2
    assert result["rows"][1]["prediction"]["decode_bytes_ratio"] == 0.8
    assert [one["prefill_s"] for one in result["rows"][1]["runs"]] == [0.6, 1.2]
    assert result["targets"][0]["met"] is False


def test_files_after_the_first_are_predicted_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    works = {"a.gguf": Work(100.0, 10.0, 50.0), "b.gguf": Work(80.0, 9.0, 30.0)}
    monkeypatch.setattr(gguf_plans, "work_of", lambda file, **_: works[file.name])
    monkeypatch.setattr(gguf_plans, "label_of", lambda file: "dense")
    first, second = gguf_entries([Path("a.gguf"), Path("b.gguf")], lambda file: lambda: run(1, 1), 4, 3, prefix="x ")
    assert (first.name, first.baseline, first.prediction) == ("x a", None, None)
    assert (second.name, second.baseline) == ("x b", "x a")
    assert second.prediction == Prediction(0.8, 0.9, 0.6)


@pytest.mark.parametrize(("part", "refused"), [("whole", False), ("first", True), ("rest", True)])
def test_half_a_model_is_refused(part: str, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = type("Manifest", (), {"part": part, "label": "lossy-skip"})
    monkeypatch.setattr(gguf_plans, "read_gguf_header", lambda file: type("Header", (), {"metadata": {}}))
    monkeypatch.setattr(gguf_plans, "read_gguf_manifest", lambda metadata, file: manifest)
    with pytest.raises(EdgeSkipError, match="half of a pair") if refused else nullcontext():
        assert label_of(Path("x.gguf")) == "lossy-skip"


def test_two_files_of_one_name_are_refused() -> None:
    with pytest.raises(EdgeSkipError, match="two entries are called dense"):
        check_names(["dense", "skip", "dense"])


@pytest.mark.parametrize("argument", ["folder", "=folder"])
def test_an_onnx_artifact_needs_a_name(argument: str) -> None:
    with pytest.raises(EdgeSkipError, match="write NAME=DIR"):
        gguf_plans.bench_gguf([Path("x.gguf")], artifact_onnx=[argument])


def test_a_missing_file_is_one_line() -> None:
    with pytest.raises(EdgeSkipError, match=r"no\.gguf does not exist"):
        gguf_plans.bench_gguf([Path("no.gguf")])


def test_every_turn_is_measured_where_cells_warm_up_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.driver.time, "sleep", lambda seconds: None)
    order: list[str] = []

    def turn(name: str) -> Any:
        return lambda: (order.append(name), run(len(order), 1.0))[1]

    runs = take_turns({name: turn(name) for name in "abc"}, rounds=2, warm_up=False, report=lambda line: None)
    assert "".join(order) == "bca" + "cab"
    assert [one.prefill_s for one in runs["b"]] == [1, 6]


def test_a_process_of_its_own_warms_up_and_ends(tmp_path: Path) -> None:
    """fake_worker's tokens count up from the prompt's sum; its notes count the steps of the last run alone."""
    contestant = Contestant("fake", "ours", "", Path(sys.executable), str(FAKE), Path("/models/well"))
    result = run_afresh(contestant, [1, 2], 12, threads=1, logs=tmp_path)
    assert result.tokens == tuple(range(4, 16))
    assert result.notes == {"steps": 12}
    failing = Contestant("fake", "ours", "", Path(sys.executable), str(FAKE), Path("/models/failing"))
    with pytest.raises(EdgeSkipError, match="RuntimeError: no memory"):
        run_afresh(failing, [1, 2], 12, threads=1, logs=tmp_path)


def answer(n_prompt: int, n_gen: int, avg_ns: int) -> list[dict[str, Any]]:
    return [{"n_prompt": n_prompt, "n_gen": n_gen, "avg_ns": avg_ns, "build_commit": "abc", "type_k": "f16"}]


def test_llama_benchs_rows_become_a_run() -> None:
    result = run_of(answer(512, 0, 2_000_000_000), answer(0, 4, 1_000_000_000))
    assert result.prefill_s == 2.0
    assert result.token_s == (0.25,) * 4
    assert Spread.of([len(result.token_s) / sum(result.token_s)]).median == 4.0


def test_other_rows_than_asked_for_are_refused() -> None:
    with pytest.raises(EdgeSkipError, match="other tests"):
        run_of(answer(512, 0, 1), answer(512, 0, 1))


def test_a_real_file_from_end_to_end(smollm2_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file under two names: the same tokens, and a prediction of 1."""
    pytest.importorskip("llama_cpp")
    monkeypatch.setenv("EDGESKIP_CACHE", str(tmp_path))  # logs
    files = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    for file in files:
        file.symlink_to(smollm2_gguf)
    gguf_plans.bench_gguf(files, prompt=16, new=4, rounds=1, threads=1, json_file=tmp_path / "out.json")
    first, second = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert len(first["runs"][0]["tokens"]) == 4
    assert first["runs"][0]["tokens"] == second["runs"][0]["tokens"]
    assert 0 < first["runs"][0]["notes"]["runtime_s"] <= sum(first["runs"][0]["token_s"])
    assert second["prediction"] == {"decode_bytes_ratio": 1.0, "decode_flops_ratio": 1.0, "prefill_flops_ratio": 1.0}
    assert second["decode"]["median"] == pytest.approx(
        sum(second["runs"][0]["token_s"]) / sum(first["runs"][0]["token_s"])
    )
