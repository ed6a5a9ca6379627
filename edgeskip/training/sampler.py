"""A torch model that answers many prompts at once, greedily or at a temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgeskip.training.objective import seed_of

if TYPE_CHECKING:
    from edgeskip.models.source import ModelSource
    from edgeskip.training.config import SelfDataConfig


class BatchSampler:
    """The source's model, loaded once, in bfloat16 where the hardware computes in it (what it writes is data, whose
    exact wording nothing depends on)."""

    def __init__(self, source: ModelSource, ends: Sequence[int], generation: SelfDataConfig, *, seed: int) -> None:
        import torch

        from edgeskip.models.torch_reference.load import has_bfloat16, load_torch_model

        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if has_bfloat16() else torch.float32
        self._model: Any = load_torch_model(source, dtype=dtype, device=self._device)
        self._ends, self._generation, self._seed = list(ends), generation, seed

    def answers(self, prompts: Sequence[Sequence[int]], number: int, context: int) -> list[list[int]]:
        """Return token ids of an answer to each prompt, up to and with an end token.

        What is drawn follows from `number`.
        """
        import torch

        generation = self._generation
        longest = max(map(len, prompts))
        pad = self._ends[0] if self._ends else 0
        ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in prompts], device=self._device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=self._device)
        torch.manual_seed(seed_of(self._seed, number, 0))
        greedy = generation.temperature == 0
        with torch.inference_mode():
            found = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=min(generation.new_tokens, context - longest),
                do_sample=not greedy,
                temperature=None if greedy else generation.temperature,
                top_k=None if greedy else 0,
                pad_token_id=pad,
                eos_token_id=self._ends or None,
            )
        return [self._until_end(row) for row in found[:, longest:].tolist()]

    def _until_end(self, row: list[int]) -> list[int]:
        for place, token in enumerate(row):
            if token in self._ends:
                return row[: place + 1]
        return row
