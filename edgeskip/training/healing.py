"""Healing as an objective: a skipped model with a LoRA learns to predict as the dense model does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgeskip.models.torch_reference.skipping import skipped
from edgeskip.training.losses import cross_entropy, divergence, next_token_rows
from edgeskip.training.objective import LossParts

if TYPE_CHECKING:
    from edgeskip.core.plan import Plan


class Healing(nn.Module):
    """Mean KL(dense ‖ skipped with the LoRA) of the next token, in nats.

    `adapted` is peft's model: without its LoRA and without the plan it is the teacher, so nothing is in memory twice.
    """

    def __init__(self, adapted: Any, plan: Plan) -> None:
        super().__init__()
        self.adapted = adapted
        self._plan = plan

    def forward(self, batch: dict[str, Tensor], step: int) -> LossParts:
        model = self.adapted.get_base_model()
        learned, _ = next_token_rows(batch["labels"])
        with torch.no_grad(), self.adapted.disable_adapter():
            teacher = model.model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state[learned]
        with skipped(model, self._plan):
            student = model.model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state[learned]
        loss = divergence(model.lm_head, student, teacher)
        return LossParts(loss, {"divergence": loss.detach()})

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Summed cross-entropy of the batch's text, without gradients: dense, skipped, and skipped with the LoRA."""
        model = self.adapted.get_base_model()
        learned, targets = next_token_rows(batch["labels"])

        def loss() -> Tensor:
            rows = model.model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state[learned]
            return cross_entropy(model.lm_head, rows, targets) * len(targets)

        with torch.no_grad():
            with self.adapted.disable_adapter():
                dense = loss()
                with skipped(model, self._plan):
                    before = loss()
            with skipped(model, self._plan):
                after = loss()
        return {"dense": dense, "skipped": before, "healed": after, "tokens": torch.tensor(float(len(targets)))}
