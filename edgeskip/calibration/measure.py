"""The two phases of calibration on a torch model: prefill over windows of text, decode over its own continuations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from edgeskip.calibration.accumulators import PhaseSums
from edgeskip.calibration.continuation import continue_greedily
from edgeskip.calibration.distributed import Shard
from edgeskip.calibration.hooks import recording
from edgeskip.models.torch_reference.blocks import blocks_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from edgeskip.calibration.exits import ExitProbe

# Prompts continued at once. Fixed, so that every process count sees the same batches and rounds the same way.
BATCH = 16
Advance = Callable[[int], None]


def empty_sums(model: PreTrainedModel, device: torch.device) -> PhaseSums:
    """Return sums of nothing, for every sublayer of `model`."""
    return PhaseSums(2 * len(blocks_of(model)), model.config.hidden_size, device)


def measure_prefill(
    model: PreTrainedModel,
    windows: Sequence[Sequence[int]],
    shard: Shard,
    advance: Advance,
    probe: ExitProbe | None = None,
) -> PhaseSums:
    """Return the sums over every token of `windows`, added up over all processes; the head is never run.

    `advance` is told the tokens each window adds to the progress of this process; `probe` sees the same passes.
    """
    import torch

    device = model.get_input_embeddings().weight.device
    sums = empty_sums(model, device)
    watching = probe.watching() if probe else nullcontext()
    with recording(model) as recorder, watching, torch.inference_mode():
        recorder.sums = sums
        for index in shard.of(range(len(windows))):
            window = windows[index]
            output = model.model(input_ids=torch.tensor([window], device=device), use_cache=False)
            sums.close_window()
            if probe:
                probe.add(index, output.last_hidden_state)
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
) -> tuple[PhaseSums, list[list[int]]]:
    """Return the sums over the tokens of the greedy continuations alone, from all processes, and the continuations.

    At most `new_tokens` tokens of a continuation are measured; one that ends is not measured any further.
    `advance` is told the tokens of a step, one for each row of its batch.
    """
    device = model.get_input_embeddings().weight.device
    sums = empty_sums(model, device)
    rows: dict[int, list[int]] = {}
    with recording(model) as recorder:

        def record(running: Tensor) -> None:
            recorder.sums, recorder.measured = sums, running
            advance(len(running))

        for start in shard.of(range(0, len(prompts), BATCH)):
            recorder.sums = None
            found = continue_greedily(
                model,
                prompts[start : start + BATCH],
                new_tokens=new_tokens + 1,  # the last one is never fed back, so never measured
                end_tokens=end_tokens,
                before_step=record,
            )
            rows.update(enumerate((row[:new_tokens] for row in found), start))
    shard.add_up(sums.scalars, sums.vectors)
    return sums, shard.collect(rows, len(prompts), device)
