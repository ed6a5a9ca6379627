"""Which examples a step learns from: a function of seed and step alone, so that a resumed run meets the same."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from edgeskip.core.errors import EdgeSkipError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

Item = TypeVar("Item")
POOL = 32  # batches that are sorted by length together, so that little of a batch is padding


class Batches(Generic[Item]):
    """Batches of `size` items, in an order drawn anew by `seed` for every epoch; similar lengths stand together.

    `collate` turns a list of items into what the objective takes. Raises EdgeSkipError if there are no items.
    """

    def __init__(
        self,
        items: Sequence[Item],
        size: int,
        seed: int,
        collate: Callable[[list[Item]], dict[str, Tensor]],
        length: Callable[[Item], int] = len,  # type: ignore[assignment]
    ) -> None:
        if not items:
            raise EdgeSkipError("there is nothing to learn from: the data hold no examples")
        self._items, self._size, self._seed = items, size, seed
        self._collate, self._length = collate, length
        self._order: tuple[int, list[list[int]]] = (-1, [])

    @property
    def per_epoch(self) -> int:
        return math.ceil(len(self._items) / self._size)

    def batch(self, step: int, rank: int = 0, processes: int = 1) -> dict[str, Tensor]:
        """Return what process `rank` learns from at `step`, counted from 0: its share of the batch, at least one
        item."""
        epoch, place = divmod(step, self.per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, self._shuffled(epoch))
        chosen = self._order[1][place]
        mine = chosen[rank::processes] or chosen[:1]
        return self._collate([self._items[index] for index in mine])

    def shares(self, accelerator: Accelerator) -> Callable[[int], dict[str, Tensor]]:
        """`batch` as this process of `accelerator` asks for it."""
        rank, processes = accelerator.process_index, accelerator.num_processes
        return lambda step: self.batch(step, rank, processes)

    def _shuffled(self, epoch: int) -> list[list[int]]:
        draw = random.Random(f"{self._seed} {epoch}")
        indices = list(range(len(self._items)))
        draw.shuffle(indices)
        batches = []
        for start in range(0, len(indices), POOL * self._size):
            pool = sorted(indices[start : start + POOL * self._size], key=lambda i: self._length(self._items[i]))
            batches += [pool[at : at + self._size] for at in range(0, len(pool), self._size)]
        draw.shuffle(batches)
        return batches


def split_off(items: Sequence[Item], share: float, seed: int) -> tuple[list[Item], list[Item]]:
    """Items to learn from, and `share` of them (at least one, where share > 0) held out, drawn by `seed`."""
    count = max(1, round(share * len(items))) if share > 0 else 0
    held = set(random.Random(f"{seed} held out").sample(range(len(items)), min(count, len(items) - 1)))
    return [x for i, x in enumerate(items) if i not in held], [items[i] for i in sorted(held)]


def example_collator(encoder: Any) -> Callable[[list[Any]], dict[str, Tensor]]:
    """Examples → input_ids and labels [batch, n] (padded on the right, −100 if nothing is learned)."""
    from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast

    end = encoder.ends[0] if encoder.ends else 0
    fast = PreTrainedTokenizerFast(tokenizer_object=encoder.fast)
    fast.pad_token = fast.convert_ids_to_tokens(end)
    pad = DataCollatorForSeq2Seq(fast, padding=True, label_pad_token_id=-100)

    def collate(examples: list[Any]) -> dict[str, Tensor]:
        rows = [
            {
                "input_ids": list(e.ids),
                "labels": [-100] * len(e.prompt) + list(e.response),
                "attention_mask": [1] * len(e),
            }
            for e in examples
        ]
        padded = pad(rows)
        # Padding stands on the right, where no earlier token attends to it: no mask is needed, and without one
        # attention takes its fast path.
        return {"input_ids": padded["input_ids"], "labels": padded["labels"]}

    return collate
