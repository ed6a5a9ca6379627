"""Vocabularies of drafts. Oracle: counts small enough to rank by eye."""

import numpy as np
import pytest

from edgeskip.core.errors import EdgeSkipError
from edgeskip.profiles.draft_vocabulary import coverage, draft_vocabulary

COUNTS = np.array([0, 5, 2, 9, 0, 2, 0, 2], np.int64)


@pytest.mark.parametrize(
    ("size", "always", "expected"),
    [
        (1, [], [3]),
        (2, [], [1, 3]),
        (3, [], [1, 2, 3]),  # 2, 5 and 7 tie
        (4, [6], [1, 2, 3, 6]),
        (4, [3, 3, 0], [0, 1, 2, 3]),
        (6, [], [0, 1, 2, 3, 5, 7]),
        (8, [7], list(range(8))),
    ],
)
def test_most_frequent_first(size: int, always: list[int], expected: list[int]) -> None:
    found = draft_vocabulary(COUNTS, size, always)
    assert found.tolist() == expected
    assert found.dtype == np.int64


def test_the_counts_are_left_alone() -> None:
    before = COUNTS.copy()
    draft_vocabulary(COUNTS, 3, [0])
    np.testing.assert_array_equal(COUNTS, before)


@pytest.mark.parametrize(
    ("size", "always", "message"),
    [
        (0, [], "choose 1 … 8"),
        (9, [], "choose 1 … 8"),
        (-3, [], "choose 1 … 8"),
        (1, [4, 6], "no room for 2 end tokens"),
        (3, [8], "token 8 is not one of the model's 8"),
        (3, [-1, 8], "token -1"),
    ],
)
def test_impossible_ones(size: int, always: list[int], message: str) -> None:
    with pytest.raises(EdgeSkipError, match=message):
        draft_vocabulary(COUNTS, size, always)


def test_coverage() -> None:
    assert coverage(COUNTS, np.array([1, 3])) == pytest.approx(14 / 20)
    assert coverage(COUNTS, np.arange(8)) == 1
    assert coverage(np.zeros(8, np.int64), np.arange(8)) == 0
