"""LayerSkip's tasks of text: CNN/DailyMail summaries and TOPv2 semantic parses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeskip.evaluation import datasets as reading
from edgeskip.evaluation.metrics import exact_match, rouge
from edgeskip.evaluation.task import EvalSample, Metric, Task

ROUGE_2 = Metric("rouge_2", "ROUGE-2 f × 100", scale=100)
EXACT = Metric("exact", "exact match × 100", scale=100)
ARTICLE = "Summarise this news article in three or four short sentences.\n\nArticle:\n{article}\n\nSummary:"


def _read_articles(paths: Sequence[Path]) -> list[EvalSample]:
    return [
        EvalSample(
            str(number),
            ARTICLE.format(article=reading.text(record, "article", where)),
            (reading.text(record, "highlights", where),),
        )
        for number, (where, record) in enumerate(reading.records(paths[0]))
    ]


def _read_utterances(paths: Sequence[Path]) -> list[EvalSample]:
    """Return the utterances as messages of their own, which is how models that parse are trained."""
    return [
        EvalSample(
            str(number),
            reading.text(record, "utterance", where),
            (reading.text(record, "semantic_parse", where),),
        )
        for number, (where, record) in enumerate(reading.records(paths[0]))
    ]


def _rouge_2(prediction: str, sample: EvalSample) -> dict[str, float]:
    return {ROUGE_2.name: rouge("rouge2", prediction, sample.answers)}


def _exact(prediction: str, sample: EvalSample) -> dict[str, float]:
    return {EXACT.name: exact_match(prediction, sample.answers)}


CNN_DAILYMAIL = Task("cnn_dailymail", ("cnn_dailymail_val500.jsonl",), _read_articles, True, 128, (ROUGE_2,), _rouge_2)
TOPV2 = Task("topv2", ("topv2_en_validation.tsv",), _read_utterances, True, 128, (EXACT,), _exact)
