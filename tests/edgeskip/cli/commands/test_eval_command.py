"""`edgeskip eval` on the runtime's tiny artifact. Oracles: its logits in numpy, the session's own answers, and the
files read back."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "evaluation"))
from eval_material import TEXT, data_folder, tiny_artifact

import edgeskip
from edgeskip.evaluation.runner import evaluate
from edgeskip.evaluation.summary import summarize
from edgeskip.evaluation.task import EvalSettings

Cli = Callable[..., Any]
TEXTS = ("--windows", 3, "--window-tokens", 40, "--threads", 1)


@pytest.fixture(scope="module")
def lossy(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_artifact(tmp_path_factory.mktemp("eval") / "lossy")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tiny_artifact(tmp_path_factory.mktemp("eval") / "dense", dense=True).folder
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return data_folder(tmp_path / "data")


def test_perplexity_of_the_logits(lossy: Any, data: Path) -> None:
    """The tokenizer has a token a byte, so the windows are the text's bytes."""
    settings = EvalSettings(windows=3, window_tokens=40, threads=1)
    (summary,) = summarize(evaluate(lossy.folder, ["perplexity"], data=data, settings=settings))
    with edgeskip.load(lossy.folder, threads=1) as session:
        ids = session.tokenizer.encode(TEXT, add_special_tokens=False)
    nats = []
    for window in (np.array(ids[i * 40 : (i + 1) * 40]) for i in range(3)):
        logits = lossy.logits(window).astype(np.float64)[:-1]
        chosen = logits[np.arange(39), window[1:]]
        nats.append(float(np.mean(np.log(np.exp(logits).sum(1)) - chosen)))
    assert summary.value == pytest.approx(math.exp(np.mean(nats)), rel=1e-4)
    assert (summary.samples, summary.tokens, summary.label) == (3, 117, "lossy-skip")


def test_logits_that_are_no_numbers_have_no_score(
    cli: Cli, lossy: Any, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        edgeskip.Session, "logits", lambda self, tokens: np.full((len(tokens), 260), np.nan, np.float32)
    )
    assert "logits that are no numbers" in cli("eval", lossy.folder, "--data", data, *TEXTS).complaint()


def test_two_targets_in_one_table(cli: Cli, lossy: Any, dense: Path, data: Path, tmp_path: Path) -> None:
    options = ["--tasks", "perplexity,divergence", "--reference", dense, "--data", data, *TEXTS]
    outcome = cli("eval", dense, lossy.folder, *options, "-o", tmp_path / "kept")
    assert outcome.code == 0, outcome.err
    assert "lossy-skip" in outcome.out
    assert "less the first" in outcome.out
    summary = json.loads(cli("eval", dense, lossy.folder, *options, "-o", tmp_path / "kept", "--json").out)
    rows = {(row["task"], row["metric"], row["artifact"]): row for row in summary["summaries"]}
    assert rows["divergence", "kl", "lossy"]["value"] == pytest.approx(0, abs=1e-9)  # the same weights
    assert rows["divergence", "agreement", "lossy"]["value"] == 100
    assert rows["perplexity", "nats", "lossy"]["difference"]["value"] == 0
    assert rows["perplexity", "nats", "lossy"]["difference"]["than"] == "dense"
    assert summary["settings"]["window_tokens"] == 40


def test_answers_are_kept_and_not_made_again(cli: Cli, lossy: Any, data: Path, tmp_path: Path) -> None:
    options = ["--tasks", "topv2", "--data", data, "--threads", 1, "-o", tmp_path / "out", "--max-new-tokens", 6]
    assert cli("eval", lossy.folder, *options, "--limit", 2).code == 0
    path = tmp_path / "out" / "topv2-lossy.jsonl"
    before = path.read_bytes()
    _, *records = [json.loads(line) for line in before.splitlines()]
    rows = (data / "topv2_en_validation.tsv").read_text().splitlines()[1:]
    with edgeskip.load(lossy.folder, threads=1) as session:
        for record in records:
            prompt = rows[int(record["id"])].split("\t")[1]
            expected = session.generate(prompt, max_tokens=6, strategy="plain")
            assert record["prediction"] == expected.text
            assert record["tokens"] == len(expected.tokens)
    assert all(record["ttft_s"] > 0 and record["cut_from"] is None for record in records)

    assert cli("eval", lossy.folder, *options, "--limit", 3).code == 0
    assert path.read_bytes().startswith(before)
    assert len(path.read_bytes().splitlines()) == 4
    path.write_bytes(path.read_bytes()[:-20])  # a kill in the middle of a line
    assert cli("eval", lossy.folder, *options, "--limit", 3).code == 0
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()[1:]][:2] == [r["id"] for r in records]
    assert len(path.read_bytes().splitlines()) == 4

    other = cli("eval", lossy.folder, *options[:-1], 5).complaint()
    assert "with another max_new_tokens: choose another -o or add --overwrite" in other


def test_long_prompts_lose_their_middle(cli: Cli, lossy: Any, data: Path, tmp_path: Path) -> None:
    options = [
        "--tasks",
        "trec,triviaqa",
        "--data",
        data,
        "--threads",
        1,
        "-o",
        tmp_path / "out",
        "--max-new-tokens",
        4,
    ]
    outcome = cli("eval", lossy.folder, *options, "--max-prompt-tokens", 31)
    assert outcome.code == 0
    assert "triviaqa, lossy: 2 prompts were cut in their middle to fit" in outcome.out
    _, record, _ = [json.loads(line) for line in (tmp_path / "out" / "trec-lossy.jsonl").read_text().splitlines()]
    assert record["prompt_tokens"] == 30
    assert record["cut_from"] > 100


def test_humaneval(cli: Cli, lossy: Any, data: Path) -> None:
    pytest.importorskip("rouge_score")
    options = ["--tasks", "humaneval", "--data", data, "--threads", 1, "--max-new-tokens", 4]
    outcome = cli("eval", lossy.folder, *options)
    assert outcome.code == 0
    assert "pass@1 × 100" in outcome.out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--tasks", "qasper"], "qasper is what AdaSkip calibrates on"),
        (["--tasks", "mmlu"], "--tasks 'mmlu' is unknown"),
        (["--tasks", "divergence"], "give --tasks divergence and --reference DIR"),
        (["--limit", "-1"], "--limit must be at least 1, or 0 for all"),
        (["--data", "nowhere"], "data folder nowhere"),
        (["--window-tokens", 700, "--windows", 1], "do not fit into a context of 600"),
        (["--windows", 100], "tokens, not 100 × 1024"),
        (["--tasks", "gov_report", "--max-new-tokens", 600], "600 new tokens leave no room in a context of 600"),
        (["--tasks", "topv2", "--strategy", "guess"], "guess"),
        (["--tasks", "topv2", "--strategy", "draft-only"], "draft"),
        (["--strategy", "speculative"], "--strategy speculative says nothing to perplexity"),
        (["--provider", "tpu"], "unknown provider 'tpu'"),
    ],
)
def test_bad_input_is_one_line(cli: Cli, lossy: Any, data: Path, options: list[object], told: str) -> None:
    more = [] if "--data" in options else ["--data", data]
    if "--windows" in options and 100 in options:
        more += ["--window-tokens", 500]
        told = told.replace("1024", "500")
    assert told in cli("eval", lossy.folder, *more, *options).complaint()


def test_artifacts_that_cannot_be(cli: Cli, lossy: Any, dense: Path, data: Path, tmp_path: Path) -> None:
    assert "does not exist" in cli("eval", tmp_path / "no", "--data", data).complaint()
    assert "has no edgeskip.json" in cli("eval", tmp_path, "--data", data).complaint()
    twice = cli("eval", lossy.folder, lossy.folder, "--data", data).complaint()
    assert "two artifacts are called lossy" in twice
    lossy_reference = ["--tasks", "divergence", "--reference", lossy.folder, "--data", data, *TEXTS]
    assert "--reference is lossy-skip" in cli("eval", dense, *lossy_reference).complaint()


def test_artifacts_of_one_name_are_told_apart(cli: Cli, lossy: Any, data: Path, tmp_path: Path) -> None:
    """By hand: as `bench` tells its targets apart, in the table and in the logs' names."""
    folders = [tmp_path / "a" / "model", tmp_path / "b" / "model"]
    for folder in folders:
        shutil.copytree(lossy.folder, folder)
    outcome = cli("eval", *folders, lossy.folder, "--data", data, "-o", tmp_path / "logs", *TEXTS)
    assert outcome.code == 0, outcome.err
    assert all(f" {name} " in outcome.out for name in ("a_model", "b_model", "lossy"))
    logs = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert logs == ["perplexity-a_model.jsonl", "perplexity-b_model.jsonl", "perplexity-lossy.jsonl"]


def test_python_lets_go_of_the_logs(lossy: Any, data: Path, tmp_path: Path) -> None:
    """By hand: the caller's process goes on, and another one may write there then."""
    settings = EvalSettings(windows=2, window_tokens=40, threads=1)
    evaluate(lossy.folder, ["perplexity"], data=data, settings=settings, output=tmp_path / "logs")
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["perplexity-lossy.jsonl"]


def test_ctrl_c_keeps_what_was_answered(
    cli: Cli, lossy: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeskip.evaluation import runner

    done: list[str] = []

    def interrupted(session: Any, task: Any, sample: Any, settings: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(sample.id)
        return answer(session, task, sample, settings)

    answer = runner.answer
    monkeypatch.setattr(runner, "answer", interrupted)
    options = ["--tasks", "topv2", "--data", data, "--threads", 1, "-o", tmp_path, "--max-new-tokens", 2, "--limit", 3]
    assert cli("eval", lossy.folder, *options).code == 130
    done[:] = ["the third alone is left"]
    assert cli("eval", lossy.folder, *options).code == 0
    ids = [json.loads(line)["id"] for line in (tmp_path / "topv2-lossy.jsonl").read_text().splitlines()[1:]]
    assert len(ids) == len(set(ids)) == 3
    assert done[1:] == ids[2:]


def test_nothing_of_it_needs_torch() -> None:
    code = "import sys, edgeskip.evaluation.runner; print({'torch', 'transformers'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "set()\n"
