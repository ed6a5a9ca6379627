"""Which examples a step learns from. Oracles: counting, and the order of another instance that starts in the middle."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.source import open_model
from edgeskip.training.batches import Batches, example_collator, split_off
from edgeskip.training.examples import Encoder, Example

TEXTS = ["x" * (1 + number * 7 % 23) for number in range(50)]


def batches(size: int = 8, seed: int = 0) -> Batches[str]:
    def collate(items: list[str]) -> Any:
        return list(items)

    return Batches(TEXTS, size, seed, collate)


def test_the_order_is_a_function_of_seed_and_step() -> None:
    whole = batches()
    order = [whole.batch(step) for step in range(21)]
    assert batches().batch(17) == order[17], "of an instance that has not seen the steps before"
    assert [batches(seed=1).batch(step) for step in range(21)] != order


def test_an_epoch_has_every_example_once() -> None:
    found = batches()
    assert found.per_epoch == 7
    epochs = [[x for step in range(7) for x in found.batch(7 * epoch + step)] for epoch in range(2)]  # type: ignore[attr-defined]
    for epoch in epochs:
        assert sorted(epoch) == sorted(TEXTS)
    assert epochs[0] != epochs[1], "drawn anew"


def test_similar_lengths_stand_together() -> None:
    """32 batches at least are sorted together, so all of these: within a batch of 8 of 50, lengths are neighbours."""
    found = batches()
    spread = [max(map(len, b)) - min(map(len, b)) for b in (found.batch(step) for step in range(7))]  # type: ignore[arg-type]
    assert max(spread) <= 5
    assert [len(found.batch(step)[0]) for step in range(7)] != sorted(len(found.batch(step)[0]) for step in range(7))  # type: ignore[index]


def test_processes_share_a_batch() -> None:
    found = batches()
    whole: Any = found.batch(3)
    shares: Any = [found.batch(3, rank, 3) for rank in range(3)]
    assert sorted(shares[0] + shares[1] + shares[2]) == sorted(whole)
    assert [len(share) for share in shares] in ([3, 3, 2], [1, 1, 1])


def test_no_process_is_without_an_example() -> None:
    one: Any = Batches(["a"], 4, 0, lambda items: items)  # type: ignore[arg-type, return-value]
    assert [one.batch(0, rank, 2) for rank in range(2)] == [["a"], ["a"]]


def test_nothing_to_learn_from() -> None:
    with pytest.raises(EdgeSkipError, match="no examples"):
        Batches([], 4, 0, lambda items: {})


def test_what_is_held_out() -> None:
    learned, held = split_off(list(range(100)), 0.07, 3)
    assert len(held) == 7
    assert sorted(learned + held) == list(range(100))
    assert split_off(list(range(100)), 0.07, 3) == (learned, held)
    assert split_off(list(range(100)), 0.07, 4) != (learned, held)
    assert len(split_off([1, 2, 3], 0.01, 0)[1]) == 1, "at least one"


def test_padding_is_not_learned(tiny_llama: Any) -> None:
    """Ids and labels by hand; the model's own end token pads."""
    collate = example_collator(Encoder(open_model(str(tiny_llama))))
    found = collate([Example((7, 8), (9, 1)), Example((5,), (6,))])
    assert found["input_ids"].tolist() == [[7, 8, 9, 1], [5, 6, 1, 1]]
    assert found["labels"].tolist() == [[-100, -100, 9, 1], [-100, 6, -100, -100]]
    assert set(found) == {"input_ids", "labels"}
    assert found["labels"].dtype == torch.int64
