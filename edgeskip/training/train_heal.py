"""`edgeskip train --method heal`: from a profile with a skip plan to the same profile with a LoRA that makes up."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.training.config import LowRankConfig, OptimizerConfig
from edgeskip.training.data import Data
from edgeskip.training.loop import Advance, Progress, accelerator_for, train
from edgeskip.training.loss_log import plot_losses
from edgeskip.training.run_card import card_of, settings_of
from edgeskip.training.run_folder import close_folder
from edgeskip.training.trained_profile import TrainedProfile

if TYPE_CHECKING:
    from torch import Tensor

    from edgeskip.training.batches import Batches
    from edgeskip.training.examples import Example
    from edgeskip.training.healing import Healing

BATCH = 4  # of what is measured at the end


def train_heal(
    given: TrainedProfile,
    data: Data,
    policy: OptimizerConfig,
    lora: LowRankConfig,
    folder: Path,
    *,
    dtype: str = "auto",
    overwrite: bool = False,
    progress: Progress = lambda report: None,
    advance: Advance = lambda what, done, total: None,
) -> dict[str, Any] | None:
    """Train a LoRA on the sublayers that the profile's plan keeps, towards the dense model's predictions, and write
    the profile with it to `folder`.

    The plan's scales, biases and maps stay the profile's, which are of the model before. A broken-off
    run goes on. Of several processes only the main one writes and returns. Raises EdgeSkipError if the profile has no
    plan.
    """
    from edgeskip.models.torch_reference.load import load_torch_model
    from edgeskip.planning.planner import resolve
    from edgeskip.training.batches import Batches, example_collator
    from edgeskip.training.healing import Healing
    from edgeskip.training.lora import trained_lora, with_lora

    source = given.source
    plan = resolve(given.profile, given.vectors)
    if not plan.skips:
        raise EdgeSkipError(f"{given.path} skips nothing, so there is nothing to heal: make a plan with  edgeskip plan")
    accelerator = accelerator_for(dtype)
    skips = {
        "compensation": plan.compensation,
        "skip": [str(skip.sublayer) for skip in plan.skips],
        "scales": [skip.scale for skip in plan.skips],
    }
    more = {"plan": skips, "vectors": given.profile.vectors.sha256, "lora": lora}
    settings = settings_of(source, data, policy, accelerator, method="heal", **more)
    examples = data.examples(
        source, folder, settings, accelerator, overwrite=overwrite, inputs=[given.path], advance=advance
    )
    collate = example_collator(examples.encoder)
    batches: Batches[Example] = Batches(examples.learned, policy.batch_size, policy.seed, collate)
    steps = policy.steps_for(batches.per_epoch)
    model = load_torch_model(source, device=str(accelerator.device))
    adapted = with_lora(model, lora, seed=policy.seed, without=plan.skipped)
    objective = Healing(adapted, plan)
    share = batches.shares(accelerator)
    table = train(accelerator, objective, share, steps, policy, folder, settings, progress=progress)
    if not accelerator.is_main_process:
        return None
    trained = trained_lora(adapted)
    objective.eval()
    held_out = [collate(examples.held_out[at : at + BATCH]) for at in range(0, len(examples.held_out), BATCH)]
    found = _perplexities(objective, held_out, accelerator.device)
    path = given.write_healed(folder, trained)
    plot_losses(table.rows, folder / "loss.png", f"{source.name}: healing {len(plan.skips)} skipped sublayers")
    card = card_of(source, settings, examples, table, accelerator, steps=steps)
    card |= {"held_out": found, "profile": path.name}
    close_folder(folder, card)
    return card


def _perplexities(objective: Healing, batches: list[dict[str, Tensor]], device: Any) -> dict[str, float]:
    """Perplexity of the held-out text, float32: dense, skipped, and healed; and its tokens."""
    sums: dict[str, float] = {}
    for batch in batches:
        moved = {name: value.to(device) for name, value in batch.items()}
        for name, value in objective.losses(moved).items():
            sums[name] = sums.get(name, 0.0) + float(value)
    tokens = sums.pop("tokens")
    return {f"{name}_perplexity": math.exp(total / tokens) for name, total in sums.items()} | {"tokens": tokens}
