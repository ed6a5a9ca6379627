"""What tasks read and ask, and what is refused. Oracle: the tiny files written here; the real ones where they are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from eval_material import data_folder, tiny_artifact, write_lines

from edgeskip.core.errors import EdgeSkipError
from edgeskip.evaluation import datasets as reading
from edgeskip.evaluation.generate import answer, cut_middle, prompt_room
from edgeskip.evaluation.layerskip import TOPV2
from edgeskip.evaluation.longbench import GOV_REPORT, TRIVIAQA
from edgeskip.evaluation.runner import prepare
from edgeskip.evaluation.task import EvalRecord, EvalSample, EvalSettings, Task
from edgeskip.evaluation.tasks import TASKS, tasks_named
from edgeskip.evaluation.trec import EXAMPLES, TREC

ANSWERED = [task for task in TASKS.values() if isinstance(task, Task)]


@pytest.mark.parametrize("task", ANSWERED, ids=lambda task: task.name)
def test_the_real_data_is_read(task: Task) -> None:
    folder = reading.default_data()
    if not folder.is_dir():
        pytest.skip(f"no data in {folder}: set EDGESKIP_DATA")
    samples = task.read(reading.locate(folder, task.files, task.name))
    assert len(samples) >= 60
    assert all(sample.prompt and sample.answers for sample in samples)
    assert not any("{context}" in sample.prompt or "{article}" in sample.prompt for sample in samples)


def test_few_shot_prompts_of_trec(tmp_path: Path) -> None:
    data = data_folder(tmp_path)
    samples = TREC.read(reading.locate(data, TREC.files, "trec"))
    far = samples[0]
    assert far.answers == ("Distance or length",)
    assert far.prompt.endswith("Question: How far is it ?\nType:")
    assert far.prompt.count("Question: ") == 3  # both of the training file, and its own
    assert "Question: What is café ?\nType: Definition of something\n" in far.prompt
    assert TREC.score(" Distance or length\nQuestion: City", far) == {"accuracy": 1.0}
    many = "".join(f"LOC:city Where is {number} ?\n" for number in range(300))
    (data / "trec_train_5500.label").write_text(many)
    first, second = TREC.read(reading.locate(data, TREC.files, "trec"))
    assert first.prompt.count("Question: ") == EXAMPLES + 1
    assert first.prompt.split("\n")[2:6] != second.prompt.split("\n")[2:6]  # examples of its own


def test_longbench_prompts(tmp_path: Path) -> None:
    data = data_folder(tmp_path)
    (report,) = GOV_REPORT.read([data / "longbench_gov_report.jsonl"])
    assert "Report:\nThe report says little.\n" in report.prompt
    question = TRIVIAQA.read([data / "longbench_triviaqa.jsonl"])[0]
    assert question.prompt.endswith("Passage:\nx\n\n\nQuestion:\nWho?\nAnswer:\n")
    assert TRIVIAQA.score("a\nPassage: B", question) == {"f1": 0.0}  # "a" is an article
    assert TRIVIAQA.score("\nB\nPassage", question) == {"f1": 1.0}


def test_braces_in_the_data_are_text(tmp_path: Path) -> None:
    record = {"input": "q {context}", "context": "c {input} {x}", "answers": ["a"]}
    (sample,) = TRIVIAQA.read([write_lines(tmp_path / "t.jsonl", record)])
    assert "c {input} {x}" in sample.prompt
    assert sample.prompt.endswith("q {context}")


def test_larger_limits_extend_smaller_ones(tmp_path: Path) -> None:
    works = [prepare(["topv2"], data_folder(tmp_path), EvalSettings(limit=limit))[0] for limit in (3, 7, None)]
    few, more, every = ([sample.id for sample in work.samples] for work in works)
    assert more[:3] == few
    assert every[:7] == more
    assert sorted(every, key=int) == [str(number) for number in range(12)]
    assert few != ["0", "1", "2"]  # drawn


@pytest.mark.parametrize(
    ("length", "most", "expected"),
    [(5, 5, [0, 1, 2, 3, 4]), (5, 4, [0, 1, 3, 4]), (7, 3, [0, 6]), (7, 2, [0, 6])],
)
def test_the_middle_is_cut(length: int, most: int, expected: list[int]) -> None:
    assert cut_middle(np.arange(length), most).tolist() == expected


def test_the_prompt_has_what_the_answer_leaves() -> None:
    assert prompt_room(600, GOV_REPORT, EvalSettings()) == 88
    assert prompt_room(600, GOV_REPORT, EvalSettings(max_prompt_tokens=50)) == 50
    assert prompt_room(600, GOV_REPORT, EvalSettings(max_prompt_tokens=5000, max_new_tokens=100)) == 500
    with pytest.raises(EdgeSkipError, match="512 new tokens leave no room in a context of 512"):
        prompt_room(512, GOV_REPORT, EvalSettings())


def test_an_answer_and_its_record() -> None:
    """Against a session that tells what it was asked: chat or raw, the ids, the stop texts."""
    asked: list[Any] = []

    def encode(prompt: str, *, chat: bool) -> Any:
        asked.append(chat)
        return np.arange(len(prompt))

    def generate(ids: Any, **options: Any) -> Any:
        asked.append((ids.tolist(), options))
        online = SimpleNamespace(gated=("ffn.3", "ffn.7"))
        stats = SimpleNamespace(ttft_s=0.5, decode_s=2.0, decode_tokens_per_s=1.5, online=online)
        text = "[IN:CREATE_TIMER set  0 ]"
        return SimpleNamespace(text=text, tokens=(1, 2, 3, 4), finish_reason="eos", label="verified", stats=stats)

    session: Any = SimpleNamespace(encode=encode, generate=generate, context_length=20, chat_template="some")
    sample = EvalSample("0", "set timer 0", ("[IN:CREATE_TIMER set 0 ]",))
    record = answer(session, TOPV2, sample, EvalSettings(max_new_tokens=10, strategy="speculative"))
    assert asked[0] is True
    ids, options = asked[1]
    assert ids == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert options == {"max_tokens": 10, "stop": (), "strategy": "speculative"}
    assert (record.prompt_tokens, record.cut_from, record.label) == (10, 11, "verified")
    assert record.scores == {"exact": 1.0}
    assert (record.tokens, record.decode_tokens, record.gated) == (4, 3, 2)
    session.chat_template = None
    answer(session, TOPV2, sample, EvalSettings(max_new_tokens=2))
    assert asked[2] is False


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["qasper"], "qasper is what AdaSkip calibrates on"),
        (["perplexity", "mmlu"], "--tasks 'mmlu' is unknown: choose from perplexity, divergence, gov_report"),
    ],
)
def test_other_tasks_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(EdgeSkipError, match=message):
        tasks_named(names)


def test_the_template_is_told(tmp_path: Path) -> None:
    """Oracle: transformers' rendering with the same keyword, a token a byte; it makes another log's settings."""
    from transformers.utils.chat_template_utils import render_jinja_template

    import edgeskip
    from edgeskip.evaluation.runner import open_logs

    source = "{{ messages[0].content }}{% if not enable_thinking %}<think></think>{% endif %}"
    folder = tiny_artifact(tmp_path / "artifact").folder
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
    sample = EvalSample("0", "set timer 0", ("",))
    lengths = []
    for thinking in (False, True):
        settings = EvalSettings(max_new_tokens=2, chat_kwargs={"enable_thinking": thinking})
        with edgeskip.load(folder, threads=1) as session:
            lengths.append(answer(session, TOPV2, sample, settings).prompt_tokens)
        conversation = [{"role": "user", "content": "set timer 0"}]
        expected = render_jinja_template([conversation], chat_template=source, enable_thinking=thinking)[0][0]
        assert lengths[-1] == len(expected)
    assert lengths[0] > lengths[1]
    works = prepare(["topv2"], data_folder(tmp_path / "data"), settings)
    (log,) = open_logs(folder, works, settings, tmp_path, overwrite=False)
    log.add(EvalRecord("0", "dense", {"exact": 1.0}, tokens=1))
    with pytest.raises(EdgeSkipError, match="chat_options"):
        open_logs(folder, works, EvalSettings(max_new_tokens=2), tmp_path, overwrite=False)


@pytest.mark.parametrize(
    ("settings", "tasks", "message"),
    [
        (EvalSettings(limit=0), ["topv2"], "--limit must be at least 1"),
        (EvalSettings(windows=0), ["perplexity"], "--windows must be at least 1"),
        (EvalSettings(window_tokens=1), ["perplexity"], "--window-tokens must be at least 2"),
        (EvalSettings(strategy="draft-only"), ["perplexity"], "draft-only says nothing to perplexity"),
        (EvalSettings(chat_kwargs={"a": 1}), ["humaneval"], "--chat-option has no effect on tasks without a chat"),
        (EvalSettings(), ["divergence"], "give --tasks divergence and --reference DIR"),
        (EvalSettings(reference=Path("x")), ["perplexity"], "give --tasks divergence and --reference DIR"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings: EvalSettings, tasks: list[str], message: str) -> None:
    with pytest.raises(EdgeSkipError, match=message):
        prepare(tasks, data_folder(tmp_path), settings)


@pytest.mark.parametrize(
    ("name", "task", "content", "message"),
    [
        ("longbench_triviaqa.jsonl", "triviaqa", '{"input": "x", "context"', "line 1 is not JSON"),
        (
            "longbench_triviaqa.jsonl",
            "triviaqa",
            '{"input": "x", "context": "y"}',
            "list of texts in the field 'answers'",
        ),
        ("longbench_triviaqa.jsonl", "triviaqa", '{"context": "y"}', "no text in the field 'input'"),
        ("longbench_triviaqa.jsonl", "triviaqa", "", "has no records"),
        ("topv2_en_validation.tsv", "topv2", "utterance\nhey\n", "no text in the field 'semantic_parse'"),
        ("trec_TREC_10.label", "trec", "NUM:many How ?\n", "line 1 is not a TREC question"),
        ("trec_TREC_10.label", "trec", "\n", "has no questions"),
    ],
)
def test_damaged_data_is_one_line(tmp_path: Path, name: str, task: str, content: str, message: str) -> None:
    (data_folder(tmp_path) / name).write_text(content)
    with pytest.raises(EdgeSkipError, match=message):
        prepare([task], tmp_path, EvalSettings())


def test_missing_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EdgeSkipError, match="data folder"):
        prepare(["topv2"], tmp_path / "no", EvalSettings())
    with pytest.raises(EdgeSkipError, match=r"has no topv2_en_validation\.tsv, which topv2 needs"):
        prepare(["topv2"], tmp_path, EvalSettings())
    (tmp_path / "a.txt").write_text("text")
    assert prepare(["perplexity"], tmp_path / "a.txt", EvalSettings())[0].text == "text"
    with pytest.raises(EdgeSkipError, match="is a file, which trec cannot read"):
        prepare(["trec"], tmp_path / "a.txt", EvalSettings())
    monkeypatch.setenv("EDGESKIP_DATA", str(data_folder(tmp_path / "there")))
    assert len(prepare(["topv2"], None, EvalSettings(limit=None))[0].samples) == 12
