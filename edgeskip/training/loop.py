"""The training loop: steps of AdamW over batches, on the devices and processes accelerate finds, resumable."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeskip.core.errors import EdgeSkipError, MissingExtraError
from edgeskip.models.torch_reference.load import has_bfloat16
from edgeskip.training.checkpoint import NAME, load_state, save_state, trained_parameters
from edgeskip.training.loss_log import LossTable

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn

    from edgeskip.training.config import OptimizerConfig


@dataclass(frozen=True)
class Report:
    """Where a run stands after a step: `step` of `steps`, its losses by part, tokens (padding too) a second so far,
    and the seconds that the other steps take at this pace."""

    step: int
    steps: int
    losses: dict[str, float]
    tokens_per_second: float
    seconds_left: float


Progress = Callable[[Report], None]
# What happens before the first step: (`answers` or `exit states`, done, in all).
Advance = Callable[[str, int, int], None]


def accelerator_for(dtype: str) -> Accelerator:
    """Return what runs the steps. `dtype`: float32, bfloat16 (autocast), or auto: bfloat16 where the hardware computes
    in it.

    EdgeSkipError for another one, or if a package of the extra `train` is missing.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
    except ImportError:
        raise MissingExtraError("accelerate", "train") from None
    for package in ("peft", "matplotlib"):  # needed at the end: better missed now than after hours
        if find_spec(package) is None:
            raise MissingExtraError(package, "train")
    if dtype not in ("auto", "float32", "bfloat16"):
        raise EdgeSkipError(f"--dtype {dtype} is unknown: choose auto, float32 or bfloat16")
    narrow = dtype == "bfloat16" or (dtype == "auto" and has_bfloat16())
    # No buffer of ours ever changes, and a head is too large to send at every step.
    still = DistributedDataParallelKwargs(broadcast_buffers=False)
    # The others wait while one process writes the data or fills the cache.
    patient = InitProcessGroupKwargs(timeout=timedelta(days=7))
    return Accelerator(mixed_precision="bf16" if narrow else "no", kwargs_handlers=[still, patient])


def train(
    accelerator: Accelerator,
    objective: nn.Module,
    batch: Callable[[int], dict[str, Tensor]],
    steps: int,
    policy: OptimizerConfig,
    folder: Path,
    settings: dict[str, Any],
    *,
    progress: Progress = lambda report: None,
) -> LossTable:
    """Train the parameters of `objective` that have gradients for `steps` steps and return the losses of all.

    `batch(step)` is this process' share. `folder` gets `losses.csv`, a row a step, and a checkpoint every
    `policy.save_every` steps and at the end; where it has one of a run with the same `settings`, the run goes on from
    there, and draws, learns and writes what it would have without the break. Raises EdgeSkipError if a loss is not
    finite, or the checkpoint is of another run.
    """
    import torch

    parameters = list(trained_parameters(objective).values())
    optimizer = torch.optim.AdamW(parameters, lr=policy.learning_rate, weight_decay=policy.weight_decay)
    objective.to(accelerator.device)
    file = folder / NAME
    first = load_state(file, objective, optimizer, settings) if file.exists() else 0
    wrapped, optimizer = accelerator.prepare(objective, optimizer)
    wrapped.train()
    main = accelerator.is_main_process
    tokens, began = 0, time.perf_counter()
    with LossTable(folder / "losses.csv", keep=first, write=main) as table:
        for step in range(first, steps):
            for group in optimizer.param_groups:
                group["lr"] = policy.rate(step, steps)
            inputs = {name: value.to(accelerator.device) for name, value in batch(step).items()}
            losses = wrapped(inputs, step)
            accelerator.backward(losses.total)
            accelerator.clip_grad_norm_(parameters, policy.clip)
            optimizer.step()
            optimizer.zero_grad()
            parts = {"loss": losses.total.detach()} | losses.parts
            values = torch.stack([part.float() for part in parts.values()])
            means = dict(zip(parts, accelerator.reduce(values, "mean").tolist(), strict=True))
            if not torch.isfinite(losses.total).item():
                raise EdgeSkipError(
                    f"the loss is not finite at step {step + 1}: lower --learning-rate, or try --dtype float32"
                )
            table.add(step + 1, policy.rate(step, steps), means)
            tokens += inputs["labels" if "labels" in inputs else "rows"].numel() * accelerator.num_processes
            if main and ((step + 1) % policy.save_every == 0 or step + 1 == steps):
                save_state(file, objective, optimizer, step=step + 1, settings=settings)
            passed = time.perf_counter() - began
            left = passed / (step + 1 - first) * (steps - step - 1)
            progress(Report(step + 1, steps, means, tokens / passed, left))
    wrapped.eval()
    return table
