"""The LayerSkip recipe as an objective: layer dropout, and early exits that learn through the model's norm and head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgeskip.training.hooks import dropped_blocks, kept_states
from edgeskip.training.losses import cross_entropy, next_token_rows
from edgeskip.training.objective import LossParts, seed_of
from edgeskip.training.schedules import dropout_rates, exit_weights, gradual, rotational

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edgeskip.training.config import LayerSkipConfig


class LayerSkip(nn.Module):
    """Σ_l weight(l, step) · cross-entropy of the next token after block l (LayerSkip eq. 3–7).

    A batch has `input_ids` and `labels` [batch, n]. The last block's loss is always there; `recipe` and `steps` say
    which others, and with which rate blocks are dropped. Part `exit E` is the loss at exit layer E (E blocks run).
    """

    def __init__(
        self, model: PreTrainedModel, recipe: LayerSkipConfig, steps: int, *, seed: int, rank: int = 0
    ) -> None:
        super().__init__()
        self.model = model
        self._recipe, self._steps, self._seed, self._rank = recipe, steps, seed, rank
        self._blocks: int = model.config.num_hidden_layers
        self._rates = dropout_rates(self._blocks, recipe.p_max)

    def weights(self, step: int) -> dict[int, float]:
        """Block → weight of the loss after it at `step`."""
        recipe = self._recipe
        if recipe.curriculum == "rotational":
            active = rotational(step, self._blocks, recipe.interval)
        else:
            active = gradual(step, self._blocks, self._steps)
        if recipe.exits:
            active = tuple(block for block in active if block + 1 in recipe.exits)
        return exit_weights(active if recipe.e_scale > 0 else (), self._blocks, recipe.e_scale, recipe.weighting)

    def forward(self, batch: dict[str, Tensor], step: int) -> LossParts:
        weights = self.weights(step)
        last = self._blocks - 1
        generator = torch.Generator().manual_seed(seed_of(self._seed, step, self._rank))
        body, head = self.model.model, self.model.lm_head
        with dropped_blocks(self.model, self._rates, generator), kept_states(self.model, set(weights) - {last}) as kept:
            final = body(input_ids=batch["input_ids"], use_cache=False).last_hidden_state
        learned, targets = next_token_rows(batch["labels"])
        total = final.new_zeros((), dtype=torch.float32)
        parts: dict[str, Tensor] = {}
        for block, weight in weights.items():
            rows = final[learned] if block == last else body.norm(kept[block][learned])
            loss = cross_entropy(head, rows, targets)
            total = total + weight * loss
            parts["last" if block == last else f"exit {block + 1}"] = loss.detach()
        return LossParts(total, parts)
