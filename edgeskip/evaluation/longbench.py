"""LongBench's tasks that AdaSkip reports: summaries and few-shot question answering. Prompts in our own words, to the
same effect as LongBench's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgeskip.evaluation import datasets as reading
from edgeskip.evaluation.metrics import first_line, rouge, word_f1
from edgeskip.evaluation.task import EvalSample, Metric, Task

ROUGE_L = Metric("rouge_l", "ROUGE-L f × 100", scale=100)
F1 = Metric("f1", "F1 × 100", scale=100)
REPORT = (
    "Below is a report by a government agency. Read it and write a summary of it on one page.\n\n"
    "Report:\n{context}\n\nNow write the summary of the report on one page.\n\nSummary:"
)
NEWS = (
    "Below are several news passages. Read them and write a summary of all of them on one page.\n\n"
    "News:\n{context}\n\nNow write the summary of all the news on one page.\n\nSummary:"
)
QUESTION = (
    "Answer the question from the passage that is given. Write the answer alone, nothing else. Some examples come "
    "first.\n\n{context}\n\n{input}"
)


def _read(wording: str) -> Callable[[Sequence[Path]], list[EvalSample]]:
    def read(paths: Sequence[Path]) -> list[EvalSample]:
        return [
            EvalSample(
                str(number),
                wording.format(
                    context=reading.text(record, "context", where), input=reading.text(record, "input", where)
                ),
                reading.texts(record, "answers", where),
            )
            for number, (where, record) in enumerate(reading.records(paths[0]))
        ]

    return read


def _rouge_l(prediction: str, sample: EvalSample) -> dict[str, float]:
    return {ROUGE_L.name: rouge("rougeL", prediction, sample.answers)}


def _f1(prediction: str, sample: EvalSample) -> dict[str, float]:
    return {F1.name: word_f1(first_line(prediction), sample.answers)}


def _summary(name: str, wording: str) -> Task:
    return Task(name, (f"longbench_{name}.jsonl",), _read(wording), True, 512, (ROUGE_L,), _rouge_l)


GOV_REPORT = _summary("gov_report", REPORT)
MULTI_NEWS = _summary("multi_news", NEWS)
TRIVIAQA = Task("triviaqa", ("longbench_triviaqa.jsonl",), _read(QUESTION), False, 32, (F1,), _f1)
