"""How well a model's exits predict on examples that were held out: agreement with the last layer, and losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from edgeskip.training.hooks import kept_states
from edgeskip.training.losses import next_token_rows

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from edgeskip.training.examples import Example

BATCH = 16
TOKENS = 6144  # measured at most: the standard error of a share is then below 0.7 %
ROWS_AT_ONCE = 512


def measure_exits(
    model: PreTrainedModel,
    examples: Sequence[Example],
    exits: Sequence[int],
    collate: Callable[[list[Any]], dict[str, Tensor]],
) -> dict[str, Any]:
    """Over the response tokens of `examples`: {tokens, loss, accuracy, exits: {E: {loss, agreement}}}.

    Losses are in nats, through the model's own norm and head. `agreement` is the share of tokens that an exit predicts
    as the last layer does, `accuracy` the share that the last layer predicts as the text has them.
    """
    device = model.get_input_embeddings().weight.device
    last = model.config.num_hidden_layers
    layers = [*(layer for layer in exits if layer < last), last]
    sums = {layer: torch.zeros(2, dtype=torch.float64) for layer in layers}
    tokens = correct = 0
    ordered = sorted(_some(examples), key=len)
    with torch.inference_mode(), kept_states(model, [layer - 1 for layer in layers[:-1]]) as kept:
        for start in range(0, len(ordered), BATCH):
            batch = collate(ordered[start : start + BATCH])
            final = model.model(input_ids=batch["input_ids"].to(device), use_cache=False).last_hidden_state
            learned, targets = next_token_rows(batch["labels"].to(device))
            states = {layer: kept[layer - 1][learned] for layer in layers[:-1]}
            final = final[learned]
            for at in range(0, len(targets), ROWS_AT_ONCE):
                rows = slice(at, at + ROWS_AT_ONCE)
                chosen = model.lm_head(final[rows]).argmax(dim=-1)
                correct += int((chosen == targets[rows]).sum())
                for layer in layers:
                    read = final[rows] if layer == last else model.model.norm(states[layer][rows])
                    logits = model.lm_head(read).float()
                    loss = functional.cross_entropy(logits, targets[rows], reduction="sum")
                    sums[layer] += torch.tensor([float(loss), float((logits.argmax(dim=-1) == chosen).sum())])
            tokens += len(targets)
    return {
        "tokens": tokens,
        "loss": float(sums[last][0]) / tokens,
        "accuracy": correct / tokens,
        "exits": {
            layer: {"loss": float(sums[layer][0]) / tokens, "agreement": float(sums[layer][1]) / tokens}
            for layer in layers[:-1]
        },
    }


def _some(examples: Sequence[Example]) -> list[Example]:
    """Examples from all over, with about TOKENS response tokens."""
    total = sum(len(example.response) for example in examples)
    stride = max(1, round(total / TOKENS))
    return list(examples[::stride])
