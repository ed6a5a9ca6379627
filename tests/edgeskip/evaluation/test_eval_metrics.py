"""Scores of answers. Oracles: hand calculation; LongBench's rules worked out by hand; ROUGE by its definition."""

from __future__ import annotations

import sys

import pytest

from edgeskip.core.errors import MissingExtraError
from edgeskip.evaluation import metrics
from edgeskip.evaluation.metrics import class_score, exact_match, first_line, normalized, rouge, word_f1
from edgeskip.evaluation.trec import CLASSES


def test_longbench_normalisation() -> None:
    assert normalized("The  U.S.A., an  apple\tand a  Pear!") == "usa apple and pear"
    assert normalized("another theme") == "another theme"  # articles are whole words


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("Paris", ["paris."], 1.0),
        ("the city of Paris", ["Paris"], 2 * (1 / 3) * 1 / (1 / 3 + 1)),  # "city of paris": 1 of 3 words
        ("a b b", ["b b c"], 2 * 1 * (2 / 3) / (1 + 2 / 3)),  # "a" is an article: b b against b b c
        ("London", ["Paris", "london town"], 2 * 1 * 0.5 / 1.5),  # the best of the answers
        ("", ["Paris"], 0.0),
        ("the", ["a"], 0.0),  # nothing left on either side
    ],
)
def test_word_f1(prediction: str, answers: list[str], expected: float) -> None:
    assert word_f1(prediction, answers) == pytest.approx(expected)


def test_first_line_as_longbench_takes_it() -> None:
    assert first_line("\n\n Paris\nPassage:\nnext") == " Paris"
    assert first_line("") == ""


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("It is a City.", 1.0),
        ("City or State", 0.5),
        ("City, State, Other city", 1 / 3),
        ("State", 0.0),
        ("nothing", 0.0),
    ],
)
def test_class_score(prediction: str, expected: float) -> None:
    assert class_score(prediction, "City", ("City", "State", "Other city")) == pytest.approx(expected)


def test_a_class_inside_the_right_name_is_not_counted() -> None:
    assert class_score("Capital City", "Capital City", ("City", "Capital City")) == 1.0


def test_no_class_of_trec_is_named_by_another() -> None:
    names = list(CLASSES.values())
    assert len(names) == len(set(names)) == 50
    assert not [(a, b) for a in names for b in names if a != b and a in b]


def test_exact_match_is_white_space_aside() -> None:
    assert exact_match(" [IN:A  x ]\n", ["[IN:A x ]"]) == 1
    assert exact_match("[IN:A x]", ["[IN:A x ]"]) == 0


def test_rouge_by_hand() -> None:
    """the cat sat / the cat ran: 1 of 2 bigrams, a longest common subsequence of 2 of 3 words."""
    pytest.importorskip("rouge_score")
    assert rouge("rouge2", "The cat sat.", ["the cat ran"]) == pytest.approx(0.5)
    assert rouge("rougeL", "The cat sat.", ["the cat ran"]) == pytest.approx(2 / 3)
    # precision 2/2, recall 2/4
    assert rouge("rougeL", "a d", ["a b c d"]) == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert rouge("rougeL", "x", ["y", "x"]) == 1
    assert rouge("rouge2", "", ["a b"]) == 0
    assert rouge("rougeL", "running", ["run"]) == 0  # no stemming


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    metrics._scorer.cache_clear()
    try:
        with pytest.raises(MissingExtraError, match=r"edgeskip\[eval\]"):
            metrics.check_rouge()
    finally:
        metrics._scorer.cache_clear()
