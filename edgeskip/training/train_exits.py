"""`edgeskip train --method exit-adapter`: from a profile and examples to the profile with trained exits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeskip.profiles.exit_adapter import Float32
from edgeskip.profiles.schema import ExitStatistics
from edgeskip.training.config import ExitPolicy, OptimizerConfig
from edgeskip.training.data import Data
from edgeskip.training.loop import Advance, Progress, accelerator_for, train
from edgeskip.training.loss_log import plot_losses
from edgeskip.training.run_card import card_of, settings_of
from edgeskip.training.run_folder import close_folder
from edgeskip.training.train_layerskip import check_exits
from edgeskip.training.trained_profile import TrainedProfile

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from edgeskip.models.torch_reference.exit_adapter import ExitAdapterModule
    from edgeskip.training.batches import Batches
    from edgeskip.training.exit_cache import Cached
    from edgeskip.training.exit_objective import ExitAdapters

BATCH = 8  # of what is measured at the end


def train_exits(
    given: TrainedProfile,
    data: Data,
    exits: ExitPolicy,
    policy: OptimizerConfig,
    folder: Path,
    *,
    dtype: str = "auto",
    overwrite: bool = False,
    progress: Progress = lambda report: None,
    advance: Advance = lambda what, done, total: None,
) -> dict[str, Any] | None:
    """Train an adapter for each exit of `exits` on the frozen model and write the profile with them to `folder`.

    The model is run over the examples once; training reads what that left in `folder`/cache. The profile's statistics
    get the agreement on the examples held out, its token counts become those of what the model predicts on the
    others, or if the draft's vocabulary is trimmed, the adapters are for those tokens. An adapter that the profile
    has learns on from where it is (and may have seen what is held out now). A broken-off run goes on.
    Of several processes only the main one writes and returns. EdgeSkipError for an exit the model does not have.
    """
    import torch

    from edgeskip.models.torch_reference.exit_adapter import ExitAdapterModule
    from edgeskip.models.torch_reference.load import load_torch_model
    from edgeskip.profiles.draft_vocabulary import draft_vocabulary
    from edgeskip.training.batches import Batches
    from edgeskip.training.exit_cache import ExitCache
    from edgeskip.training.exit_objective import ExitAdapters

    source, vectors = given.source, given.vectors
    config = source.decoder.config
    check_exits(exits.layers, config.num_blocks)
    if exits.vocabulary is not None:  # before hours of work, not after
        draft_vocabulary(np.zeros(config.vocab_size, np.int64), exits.vocabulary, list(source.end_tokens))
    accelerator = accelerator_for(dtype)
    before = {"vectors": given.profile.vectors.sha256}
    settings = settings_of(source, data, policy, accelerator, method="exit-adapter", exits=exits, **before)
    examples = data.examples(
        source, folder, settings, accelerator, overwrite=overwrite, inputs=[given.path], advance=advance
    )
    model = load_torch_model(source, device=str(accelerator.device))
    every = [*examples.learned, *examples.held_out]
    with accelerator.main_process_first():  # which makes the files; the others then open them
        cache = ExitCache(folder / "cache", every, exits.layers, config.hidden_size)
        if accelerator.is_main_process:
            cache.fill(model, accelerator.autocast, partial(advance, "exit states"))
    learned, held_out = cache.items[: len(examples.learned)], cache.items[len(examples.learned) :]
    counts = cache.counts(config.vocab_size, learned)
    tokens = None
    if exits.vocabulary is not None:
        tokens = torch.from_numpy(draft_vocabulary(counts, exits.vocabulary, examples.encoder.ends))
    torch.manual_seed(policy.seed)
    modules = {layer: ExitAdapterModule(model, exits.kind, like=layer) for layer in exits.layers}
    for layer, module in modules.items():
        trained = vectors.exit_adapters.get(layer) if exits.go_on else None
        if trained is not None and trained.kind == exits.kind:
            module.load(trained)
        else:
            _start(module, vectors.exit_maps.get(layer) if exits.go_on else None)
    objective = ExitAdapters(model, modules, tokens)
    batches: Batches[Cached] = Batches(learned, policy.batch_size, policy.seed, cache.collate)
    steps = policy.steps_for(batches.per_epoch)
    table = train(
        accelerator, objective, batches.shares(accelerator), steps, policy, folder, settings, progress=progress
    )
    if not accelerator.is_main_process:
        return None
    for module in modules.values():
        module.load(module.adapter())  # rounded as it is stored
    objective.eval()
    maps = {layer: found for layer, found in vectors.exit_maps.items() if layer in exits.layers}

    def share(compared: ExitAdapters) -> dict[int, float]:
        batches = (cache.collate(held_out[at : at + BATCH]) for at in range(0, len(held_out), BATCH))
        with accelerator.autocast():
            return agreement(compared.to(accelerator.device), batches, accelerator.device)

    agreed, plain = share(objective), share(untrained_exits(model, exits.layers, tokens))
    ridge = share(untrained_exits(model, tuple(maps), tokens, maps)) if maps else {}
    rows = sum(item.rows.stop - item.rows.start for item in held_out)
    statistics = [
        ExitStatistics(
            layer=layer,
            tokens=rows,
            plain_agreement=plain[layer],
            ridge_agreement=ridge.get(layer),
            adapter=exits.kind,
            adapter_agreement=agreed[layer],
            adapter_vocab=exits.vocabulary,
        )
        for layer in exits.layers
    ]
    path = given.write(folder, statistics, {n: m.adapter() for n, m in modules.items()}, counts)
    plot_losses(table.rows, folder / "loss.png", f"{source.name}: exit adapters, {steps} steps of {policy.batch_size}")
    card = card_of(source, settings, examples, table, accelerator, steps=steps)
    coverage = float(counts[tokens.numpy()].sum() / counts.sum()) if tokens is not None else 1.0
    found = {layer: {"agreement": agreed[layer], "plain_agreement": plain[layer]} for layer in exits.layers}
    card |= {"held_out": {"tokens": rows, "exits": found}, "vocabulary_coverage": coverage, "profile": path.name}
    close_folder(folder, card)
    return card


def _start(module: ExitAdapterModule, exit_map: Any) -> None:
    """The block starts as one that adds nothing, the map as the calibrated one if there is one."""
    import torch

    with torch.no_grad():
        if module.block is not None:
            for name, parameter in module.block.named_parameters():
                if name.startswith(("self_attn.o_proj.", "mlp.down_proj.")):
                    parameter.zero_()
        if exit_map is not None:
            module.map.copy_(torch.from_numpy(np.array(exit_map, np.float32)))


def untrained_exits(
    model: PreTrainedModel, layers: Sequence[int], tokens: Tensor | None, maps: Mapping[int, Float32] | None = None
) -> ExitAdapters:
    """Return the exits through the model's own norm, or their calibrated `maps`, and its head: to compare with."""
    from edgeskip.models.torch_reference.exit_adapter import ExitAdapterModule
    from edgeskip.training.exit_objective import ExitAdapters

    modules = {layer: ExitAdapterModule(model, "map", like=0) for layer in layers}
    for layer, exit_map in (maps or {}).items():
        _start(modules[layer], exit_map)
    return ExitAdapters(model, modules, tokens).eval()


def agreement(objective: ExitAdapters, batches: Iterable[dict[str, Tensor]], device: Any) -> dict[int, float]:
    """Exit layer → share of the rows on which its likeliest token, of those a draft knows, is the teacher's."""
    import torch

    agreed = dict.fromkeys(objective.adapters, 0)
    total = 0
    with torch.inference_mode():
        for batch in batches:
            moved = {name: value.to(device) for name, value in batch.items()}
            wanted = objective.columns[moved["top"][:, 0]]
            total += len(wanted)
            for layer in agreed:
                agreed[layer] += int((objective.logits(moved, layer).argmax(dim=-1) == wanted).sum())
    return {int(layer): count / max(total, 1) for layer, count in agreed.items()}
