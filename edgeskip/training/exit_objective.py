"""Exit adapters as an objective: each learns to predict from its exit state what the whole model predicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgeskip.training.objective import LossParts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edgeskip.models.torch_reference.exit_adapter import ExitAdapterModule


class ExitAdapters(nn.Module):
    """Mean cross-entropy between the teacher's likeliest tokens and each exit's distribution, over the draft's tokens.

    Batches are those of `edgeskip.training.exit_cache`. `tokens` int64 [V'] are the ids the draft's head knows, None =
    all: the teacher's probabilities are cut to these and divided by their sum, as a trimmed draft can do no better,
    and rows whose likeliest tokens are all beyond them are left out. The model's head is not trained.
    """

    def __init__(
        self, model: PreTrainedModel, adapters: Mapping[int, ExitAdapterModule], tokens: Tensor | None = None
    ) -> None:
        super().__init__()
        self.adapters = nn.ModuleDict({str(layer): adapter for layer, adapter in adapters.items()})
        weight = model.lm_head.weight.detach()
        self.head: Tensor
        self.columns: Tensor
        self.register_buffer("head", weight if tokens is None else weight[tokens], persistent=False)
        columns = torch.arange(len(weight))
        if tokens is not None:
            columns = torch.full_like(columns, -1)
            columns[tokens] = torch.arange(len(tokens))
        self.register_buffer("columns", columns, persistent=False)  # token id → the head's row, −1 = none
        self._rotary = [model.model.rotary_emb]  # in a list: not a part of this module

    def forward(self, batch: dict[str, Tensor], step: int) -> LossParts:
        columns, probabilities = self.targets(batch)
        total = self.head.new_zeros((), dtype=torch.float32)
        parts: dict[str, Tensor] = {}
        for layer in self.adapters:
            logits = self.logits(batch, layer)
            chosen = torch.log_softmax(logits, dim=-1).gather(1, columns.clamp_min(0))
            loss = -(probabilities * chosen).sum() / probabilities.sum().clamp_min(1e-9)
            total = total + loss
            parts[f"exit {layer}"] = loss.detach()
        return LossParts(total, parts)

    def targets(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the head's rows [rows, K] of the teacher's tokens, −1 = it has none, and their probabilities; a row's
        add up to 1, or 0 if the head has none of them."""
        columns = self.columns[batch["top"]]
        probabilities = batch["probabilities"] * (columns >= 0)
        return columns, probabilities / probabilities.sum(dim=-1, keepdim=True).clamp_min(1e-9)

    def logits(self, batch: dict[str, Tensor], layer: str) -> Tensor:
        """Float32 [rows, V'] of one exit."""
        states = batch[f"states-{layer}"]
        positions = torch.arange(states.shape[1], device=states.device)[None]
        arguments = {"position_embeddings": self._rotary[0](states, positions), "attention_mask": None}
        read = self.adapters[layer](states, batch["rows"], **arguments)
        logits: Tensor = (read.to(self.head.dtype) @ self.head.T).float()
        return logits
