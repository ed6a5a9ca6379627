"""What an exit adapter learns from, run through the frozen model once and kept on disk: exit states and the teacher.

Arrays in a folder, mapped into memory: `states-E` [tokens, d] for each exit layer E, and for each response token the
`top` ids [rows, K] the model finds likeliest and their log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.notes import note
from edgeskip.training.cache_progress import CacheProgress, digest_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from edgeskip.training.examples import Example

TOP = 32  # of the teacher's tokens that are kept; what they leave out is a few per cent of the probability
BATCH_TOKENS = 4096  # of a pass, padding included
ROWS_AT_ONCE = 512  # of logits in memory together


@dataclass(frozen=True)
class Cached:
    """One example in the cache: its rows of the states, and of the teacher, whose first is of position `prompt` − 1."""

    tokens: slice
    rows: slice
    prompt: int

    def __len__(self) -> int:
        return int(self.tokens.stop - self.tokens.start)


class ExitCache:
    """The cache of `examples` in `folder`, for the exits `layers`; `fill` makes it, or what is missing of it."""

    def __init__(self, folder: Path, examples: Sequence[Example], layers: Sequence[int], hidden_size: int) -> None:
        self._folder, self._examples, self._layers = folder, list(examples), tuple(layers)
        self.items: list[Cached] = []
        tokens = rows = 0
        for example in self._examples:
            count, learned = len(example), example.learned
            self.items.append(
                Cached(slice(tokens, tokens + count), slice(rows, rows + learned), max(len(example.prompt), 1))
            )
            tokens, rows = tokens + count, rows + learned
        folder.mkdir(parents=True, exist_ok=True)
        self.states = {n: self._array(f"states-{n}", (tokens, hidden_size), np.float16) for n in self._layers}
        self.top = self._array("top", (rows, TOP), np.int32)
        self.log_probabilities = self._array("log_probabilities", (rows, TOP), np.float16)
        self._tokens = tokens
        # The order they are run in: similar lengths together.
        self._order = sorted(range(len(self._examples)), key=lambda index: len(self._examples[index]))
        self._progress = CacheProgress(folder / "done.json", self._what(hidden_size), self._digest)

    def fill(self, model: PreTrainedModel, autocast: Callable[[], Any], advance: Callable[[int, int], None]) -> None:
        """Run the model over the examples that are not in the cache yet, shortest first; `advance` is told the
        tokens done and in all. What is there is checked by its hashes first, and computed again where they differ.

        Raises EdgeSkipError if an exit state does not fit into float16.
        """
        import torch

        order = self._order
        if (why := self._progress.resume(len(order))) is not None:
            kept = f"{self._progress.done} of {len(order)} examples are kept, the rest is computed again"
            note(f"{self._folder}: {why}: {kept}")
        done = self._progress.done
        finished = sum(len(self._examples[index]) for index in order[:done])
        if done < len(order):
            advance(finished, self._tokens)
        while done < len(order):
            longest = 0
            batch: list[int] = []
            for index in order[done:]:
                longest = max(longest, len(self._examples[index]))
                if batch and longest * (len(batch) + 1) > BATCH_TOKENS:
                    break
                batch.append(index)
            with torch.inference_mode(), autocast():
                self._run(model, batch)
            done += len(batch)
            finished += sum(len(self._examples[index]) for index in batch)
            if done % 64 < len(batch) or done == len(order):
                for array in (*self.states.values(), self.top, self.log_probabilities):
                    array.flush()
                self._progress.advance(done)
            advance(finished, self._tokens)

    def _run(self, model: PreTrainedModel, batch: list[int]) -> None:
        import torch

        from edgeskip.training.hooks import kept_states

        device = model.get_input_embeddings().weight.device
        longest = max(len(self._examples[index]) for index in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        for row, index in enumerate(batch):
            ids[row, : len(self._examples[index])] = torch.tensor(self._examples[index].ids)
        with kept_states(model, [layer - 1 for layer in self._layers]) as kept:
            final = model.model(input_ids=ids.to(device), use_cache=False).last_hidden_state
        for row, index in enumerate(batch):
            item = self.items[index]
            for layer in self._layers:
                states = kept[layer - 1][row, : len(item)].to(torch.float16)
                if not states.isfinite().all():
                    raise EdgeSkipError(f"the residual stream at exit layer {layer} does not fit into float16")
                self.states[layer][item.tokens] = states.cpu().numpy()
            first = item.prompt - 1
            count = item.rows.stop - item.rows.start
            for at in range(0, count, ROWS_AT_ONCE):
                some = final[row, first + at : first + min(at + ROWS_AT_ONCE, count)]
                logits = model.lm_head(some).float()
                top = logits.topk(min(TOP, logits.shape[-1]), dim=-1)
                rows = slice(item.rows.start + at, item.rows.start + at + len(some))
                self.top[rows, : top.indices.shape[1]] = top.indices.cpu().numpy()
                self.log_probabilities[rows, : top.indices.shape[1]] = (
                    (top.values - logits.logsumexp(dim=-1, keepdim=True)).cpu().numpy()
                )

    def _array(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> Any:
        path = self._folder / f"{name}.npy"
        if path.is_file():
            with suppress(Exception):  # a header can be damaged in any way; the file is made again
                found = np.lib.format.open_memmap(path, mode="r+")
                if found.shape == shape and found.dtype == dtype:
                    return found
        made = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        if name == "log_probabilities":
            made[:] = -np.inf
        return made

    def _what(self, hidden_size: int) -> str:
        """Return what the cache is of: the examples in order, and the arrays."""
        shape = f"{self._layers} {hidden_size} {TOP}"
        return digest_of([shape, *(str((len(e.prompt), list(map(int, e.ids)))) for e in self._examples)])

    def _digest(self, start: int, stop: int) -> str:
        """Hash of what the examples start … stop−1, in the order they are run in, have in the arrays."""
        items = [self.items[index] for index in self._order[start:stop]]
        parts: list[NDArray[Any]] = []
        for item in items:
            parts += [states[item.tokens] for states in self.states.values()]
            parts += [self.top[item.rows], self.log_probabilities[item.rows]]
        return digest_of([np.ascontiguousarray(part) for part in parts if part.size])

    def collate(self, items: list[Cached]) -> dict[str, Tensor]:
        """`states-E` [batch, n, d] float32, padded on the right; `rows` bool [batch, n]; `top` [rows, K] and their
        `probabilities` float32, in the order of the rows."""
        import torch

        longest = max(len(item) for item in items)
        rows = torch.zeros(len(items), longest, dtype=torch.bool)
        batch: dict[str, Tensor] = {}
        for layer, states in self.states.items():
            padded = np.zeros((len(items), longest, states.shape[1]), np.float32)
            for number, item in enumerate(items):
                padded[number, : len(item)] = states[item.tokens]
            batch[f"states-{layer}"] = torch.from_numpy(padded)
        for number, item in enumerate(items):
            rows[number, item.prompt - 1 : item.prompt - 1 + item.rows.stop - item.rows.start] = True
        batch["rows"] = rows
        batch["top"] = torch.from_numpy(np.concatenate([self.top[item.rows] for item in items]).astype(np.int64))
        logs = np.concatenate([self.log_probabilities[item.rows] for item in items]).astype(np.float32)
        batch["probabilities"] = torch.from_numpy(np.exp(logs))
        return batch

    def counts(self, vocab_size: int, items: Sequence[Cached]) -> NDArray[np.int64]:
        """Return how often each token [vocab_size] is the teacher's likeliest in `items`."""
        likeliest = np.concatenate([self.top[item.rows, 0] for item in items])
        return np.bincount(likeliest, minlength=vocab_size).astype(np.int64)
