"""The LayerSkip recipe's numbers: which block is dropped how often, which exits learn at a step, and with what weight.

Blocks count from 0, L blocks in all (Elhoushi et al. 2024, LayerSkip, arXiv 2404.16710, §4.1–4.2). Pure arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal

Curriculum = Literal["rotational", "gradual"]
Weighting = Literal["paper", "equal"]


def dropout_rates(num_blocks: int, p_max: float) -> tuple[float, ...]:
    """Rate at which each block is dropped for a sample: p_max·D(l), D(l) = exp(l·ln2/(L−1)) − 1 (eq. 2).

    Block 0 is never dropped, the last with rate p_max.
    """
    if num_blocks == 1:
        return (0.0,)
    return tuple(p_max * (math.exp(block * math.log(2) / (num_blocks - 1)) - 1) for block in range(num_blocks))


def rotational(step: int, num_blocks: int, interval: int) -> tuple[int, ...]:
    """Block after which the model learns to exit at `step`: every `interval`-th, one further at each step."""
    return tuple(block for block in range(num_blocks - 1) if block % interval == step % interval)


def gradual(step: int, num_blocks: int, steps: int) -> tuple[int, ...]:
    """Return the same, from the last towards the first: one block more every steps/(2L) steps, all from half of them
    on."""
    enabled = step * 2 * num_blocks // steps if steps else num_blocks
    return tuple(block for block in range(num_blocks - 1) if block >= num_blocks - 1 - enabled)


def exit_weights(
    exits: Collection[int], num_blocks: int, e_scale: float, weighting: Weighting = "paper"
) -> dict[int, float]:
    """Block → weight of the loss after it, which add up to 1: of `exits` and, always, of the last block.

    paper: e(l) = e_scale·Σ_{i≤l} i for l < L−1, and L−1 + e_scale·Σ_{i≤L−2} i for the last (eq. 5–6). equal: the last
    block has weight 1 before normalizing, the others share e_scale equally. The paper's makes an exit count as the
    square of its depth, which leaves one or two per cent of the loss to those that are worth drafting with.
    """
    last = num_blocks - 1
    if weighting == "equal":
        early = [block for block in sorted(exits) if block < last]
        scale = 1 + (e_scale if early else 0.0)
        return {block: e_scale / len(early) / scale for block in early} | {last: 1 / scale}
    weights = {block: e_scale * block * (block + 1) / 2 for block in sorted(exits) if block < last}
    weights[last] = last + e_scale * (last - 1) * last / 2 if last else 1.0
    total = sum(weights.values())
    return {block: weight / total for block, weight in weights.items()}
