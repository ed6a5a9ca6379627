"""The model's own greedy continuations of prompts, several at once: what the decode phase measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def continue_greedily(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    end_tokens: frozenset[int],
    before_step: Callable[[Tensor], None] = lambda running: None,
) -> list[list[int]]:
    """Up to `new_tokens` greedy tokens after each prompt; a row ends before its first end token.

    Prompts of different length are padded on the left and the padding masked. `before_step` is called before
    every pass over generated tokens with `running`, bool [batch, 1]: the rows that have not ended. The last token
    of a row is not fed back, so no pass sees it.
    """
    import torch

    device = model.get_input_embeddings().weight.device
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    ends = torch.tensor(sorted(end_tokens), dtype=torch.long, device=device)
    head = model.get_output_embeddings()
    running = torch.ones(len(prompts), dtype=torch.bool, device=device)
    rows: list[list[int]] = [[] for _ in prompts]
    past = None
    for _ in range(new_tokens):
        with torch.inference_mode():
            output = model.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(dim=1) - 1).clamp_min(0)[:, -ids.shape[1] :],
                past_key_values=past,
                use_cache=True,
            )
            chosen = head(output.last_hidden_state[:, -1]).argmax(dim=-1)
            running &= ~torch.isin(chosen, ends)
        if not running.any():
            break
        for row, token, alive in zip(rows, chosen.tolist(), running.tolist(), strict=True):
            if alive:
                row.append(token)
        past = output.past_key_values
        ids = chosen[:, None]
        mask = torch.cat((mask, torch.ones_like(ids)), dim=1)
        before_step(running[:, None])
    return rows
