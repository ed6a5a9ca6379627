"""The two phases of calibration on a torch model: prefill over windows of text, decode over its own continuations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgeskip.calibration.blocks import blocks_of
from edgeskip.calibration.continuation import continue_greedily
from edgeskip.calibration.recorder import recording
from edgeskip.calibration.sharding import Shard
from edgeskip.calibration.sums import PhaseSums

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

# Prompts continued at once. Fixed, so that every process count sees the same batches and rounds the same way.
BATCH = 8
Advance = Callable[[int], None]


def empty_sums(model: PreTrainedModel, device: torch.device) -> PhaseSums:
    """Sums of nothing, for every sublayer of `model`."""
    return PhaseSums(2 * len(blocks_of(model)), model.config.hidden_size, device)


def measure_prefill(
    model: PreTrainedModel, windows: Sequence[Sequence[int]], shard: Shard, advance: Advance
) -> PhaseSums:
    """Sums over every token of `windows`, added up over all processes; the head is never run.

    `advance` is told the tokens each window adds to the progress of this process.
    """
    import torch

    device = model.get_input_embeddings().weight.device
    sums = empty_sums(model, device)
    with recording(model) as recorder, torch.inference_mode():
        recorder.sums = sums
        for window in shard.of(windows):
            model.model(input_ids=torch.tensor([window], device=device), use_cache=False)
            advance(len(window))
    shard.add_up(sums.scalars, sums.vectors)
    return sums


def measure_decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    shard: Shard,
    advance: Advance,
    *,
    new_tokens: int,
    end_tokens: frozenset[int],
) -> PhaseSums:
    """Sums over the tokens of the greedy continuations alone, added up over all processes.

    A continuation stops being measured where it ends. `advance` is told BATCH tokens a step, ended rows included.
    """
    device = model.get_input_embeddings().weight.device
    sums = empty_sums(model, device)
    batches = [prompts[i : i + BATCH] for i in range(0, len(prompts), BATCH)]
    with recording(model) as recorder:

        def record(running: Tensor) -> None:
            recorder.sums, recorder.measured = sums, running
            advance(len(running))

        for batch in shard.of(batches):
            recorder.sums = None
            continue_greedily(model, batch, new_tokens=new_tokens, end_tokens=end_tokens, before_step=record)
    shard.add_up(sums.scalars, sums.vectors)
    return sums
