"""How right one answer is, from 0 to 1: ROUGE, LongBench's F1 and classification score, exact match.

ROUGE is Google's rouge-score without stemming; LongBench scores with the package `rouge`, which splits words otherwise.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from edgeskip.core.errors import MissingExtraError

_ARTICLES = frozenset(("a", "an", "the"))
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def rouge(kind: str, prediction: str, answers: Iterable[str]) -> float:
    """F-measure of `rougeL`, `rouge2`, …; the best over the answers."""
    scorer = _scorer(kind)
    return max((float(scorer.score(answer, prediction)[kind].fmeasure) for answer in answers), default=0.0)


def check_rouge() -> None:
    """MissingExtraError where ROUGE cannot be computed: asked before long work."""
    _scorer("rougeL")


@cache
def _scorer(kind: str) -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ModuleNotFoundError as error:
        raise MissingExtraError("rouge-score", "eval") from error
    return RougeScorer([kind], use_stemmer=False)


def normalized(text: str) -> str:
    """LongBench's: lower case, no (ASCII) punctuation, no articles, single spaces."""
    words = text.lower().translate(_PUNCTUATION).split()
    return " ".join(word for word in words if word not in _ARTICLES)


def word_f1(prediction: str, answers: Iterable[str]) -> float:
    """F1 of the normalized words, each counted as often as it is there; the best over the answers."""
    said = Counter(normalized(prediction).split())
    return max((_f1(said, Counter(normalized(answer).split())) for answer in answers), default=0.0)


def _f1(said: Counter[str], meant: Counter[str]) -> float:
    common = (said & meant).total()
    if not common:
        return 0.0
    precision, recall = common / said.total(), common / meant.total()
    return 2 * precision * recall / (precision + recall)


def class_score(prediction: str, answer: str, classes: Sequence[str]) -> float:
    """LongBench's: 1 / the number of classes named in the prediction where the right one is among them, else 0.

    A class whose name is a part of the right one's is not counted as named.
    """
    named = [name for name in classes if name in prediction and (name == answer or name not in answer)]
    return 1 / len(named) if answer in named else 0.0


def exact_match(prediction: str, answers: Iterable[str]) -> float:
    """1 if the prediction is one of the answers, white space aside."""
    return float(any(prediction.split() == answer.split() for answer in answers))


def first_line(prediction: str) -> str:
    """Return where few-shot answers end: LongBench takes the first line that is not empty at the front."""
    return prediction.lstrip("\n").split("\n")[0]
