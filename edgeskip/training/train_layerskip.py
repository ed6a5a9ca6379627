"""`edgeskip train --method layerskip`: from a model and examples to a folder that is a model trained to exit early."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.training.config import LayerSkipConfig, LowRankConfig, OptimizerConfig
from edgeskip.training.data import Data
from edgeskip.training.loop import Advance, Progress, accelerator_for, train
from edgeskip.training.loss_log import plot_losses
from edgeskip.training.run_card import card_of, settings_of
from edgeskip.training.run_folder import close_folder

if TYPE_CHECKING:
    from edgeskip.models.source import ModelSource


def train_layerskip(
    source: ModelSource,
    data: Data,
    recipe: LayerSkipConfig,
    policy: OptimizerConfig,
    lora: LowRankConfig | None,
    folder: Path,
    *,
    dtype: str = "auto",
    overwrite: bool = False,
    progress: Progress = lambda report: None,
    advance: Advance = lambda what, done, total: None,
) -> dict[str, Any] | None:
    """Train with the LayerSkip recipe and write the model to `folder`: a PEFT folder with `lora`, else a whole
    Hugging Face folder; beside it train.json (what is returned), losses.csv and loss.png.

    A run that was broken off goes on. Of several processes only the main one writes and returns. EdgeSkipError for an
    exit the model does not have, and for a folder that holds something else.
    """
    from edgeskip.models.torch_reference.load import load_torch_model
    from edgeskip.training.batches import Batches, example_collator
    from edgeskip.training.evaluation import measure_exits
    from edgeskip.training.layerskip import LayerSkip
    from edgeskip.training.lora import save_lora, trained_lora, with_lora
    from edgeskip.training.model_folder import save_model

    check_exits(recipe.exits, source.decoder.config.num_blocks)
    accelerator = accelerator_for(dtype)
    settings = settings_of(source, data, policy, accelerator, method="layerskip", recipe=recipe, lora=lora)
    examples = data.examples(source, folder, settings, accelerator, overwrite=overwrite, advance=advance)
    collate = example_collator(examples.encoder)
    batches = Batches(examples.learned, policy.batch_size, policy.seed, collate)
    steps = policy.steps_for(batches.per_epoch)
    model = load_torch_model(source)
    adapted = with_lora(model, lora, seed=policy.seed) if lora else None
    if lora is None:
        model.requires_grad_(True)
    objective = LayerSkip(model, recipe, steps, seed=policy.seed, rank=accelerator.process_index)
    share = batches.shares(accelerator)
    table = train(accelerator, objective, share, steps, policy, folder, settings, progress=progress)
    if not accelerator.is_main_process:
        return None
    trained = trained_lora(adapted) if adapted is not None else None
    model.eval()
    with accelerator.autocast():
        layers = recipe.exits or range(1, source.decoder.config.num_blocks)
        found = measure_exits(model, examples.held_out, layers, collate)
    if trained is not None:
        save_lora(trained, source, folder)
    else:
        save_model(source, model, folder)
    plot_losses(table.rows, folder / "loss.png", f"{source.name}: LayerSkip, {steps} steps of {policy.batch_size}")
    card = card_of(source, settings, examples, table, accelerator, steps=steps) | {"held_out": found}
    close_folder(folder, card)
    return card


def check_exits(exits: Sequence[int], num_blocks: int) -> None:
    """Raise EdgeSkipError if the model has no such exit layer."""
    wrong = next((layer for layer in exits if not 1 <= layer < num_blocks), None)
    if wrong is not None:
        raise EdgeSkipError(f"exit layer {wrong} is not possible: the model has {num_blocks} blocks")
