"""LoRA on a torch model by peft: which layers get one, and what was trained, as exports read it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeskip.core.errors import EdgeSkipError, MissingExtraError
from edgeskip.core.sublayers import Sublayer
from edgeskip.models.torch_reference.blocks import blocks_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edgeskip.models.readers.lora import Lora as TrainedLora
    from edgeskip.models.source import ModelSource
    from edgeskip.training.config import LowRankConfig


def with_lora(model: PreTrainedModel, lora: LowRankConfig, *, seed: int, without: Collection[Sublayer] = ()) -> Any:
    """Return the model as peft's, with a LoRA on every linear layer of its blocks but the sublayers `without`.

    The model itself is changed in place; its own weights are frozen. A's start values follow from `seed`; B starts at
    zero, so that nothing is different before the first step.
    """
    try:
        from peft import LoraConfig as PeftConfig
        from peft import get_peft_model
    except ImportError:
        raise MissingExtraError("peft", "train") from None
    import torch

    torch.manual_seed(seed)
    ranks = {name: lora.rank_of(block) for name, block in _linear_layers(model, without).items()}
    config = PeftConfig(
        r=lora.rank,
        lora_alpha=lora.scaling * lora.rank,
        target_modules=list(ranks),
        rank_pattern={name: rank for name, rank in ranks.items() if rank != lora.rank},
        alpha_pattern={name: lora.scaling * rank for name, rank in ranks.items() if rank != lora.rank},
    )
    return get_peft_model(model, config)


def trained_lora(adapted: Any) -> TrainedLora:
    """Return what was trained, rounded to float16, in which it is stored; the model is rounded with it, so that what is
    measured from here on is what is shipped. Raises EdgeSkipError if a weight does not fit into float16."""
    import torch
    from peft import get_peft_model_state_dict

    from edgeskip.models.readers.lora import lora_of

    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_" in name:
                parameter.copy_(parameter.to(torch.float16).to(parameter.dtype))
    arrays = {
        name: tensor.detach().float().cpu().numpy() for name, tensor in get_peft_model_state_dict(adapted).items()
    }
    config = adapted.peft_config["default"]
    try:
        return lora_of(arrays, config.lora_alpha / config.r, "the LoRA")  # one scaling, whatever the rank
    except EdgeSkipError as error:
        raise EdgeSkipError(f"training failed: {error}; lower --learning-rate") from None


def save_lora(lora: TrainedLora, source: ModelSource, folder: Path) -> None:
    """Write the folder that peft and EdgeSkip open as a model: the LoRA and the name of the source."""
    from edgeskip.core.files import replace_file
    from edgeskip.models.readers.peft_folder import peft_files

    for name, data in peft_files(lora, base_reference(source)).items():
        replace_file(folder / name, data)


def base_reference(source: ModelSource) -> str:
    """Return what another folder names to have this model: its name where it has one, else its absolute path."""
    return str(Path(source.reference).resolve()) if Path(source.reference).exists() else source.reference


def _linear_layers(model: PreTrainedModel, without: Collection[Sublayer]) -> dict[str, int]:
    """Name of every linear layer of the blocks → number of its block."""
    from torch import nn

    names = {module: name for name, module in model.named_modules()}
    found: dict[str, int] = {}
    for index, block in enumerate(blocks_of(model)):
        parts = {Sublayer(index, "attn"): block.attention, Sublayer(index, "ffn"): block.ffn}
        for sublayer, part in parts.items():
            if sublayer not in without:
                found |= {names[module]: index for module in part.modules() if isinstance(module, nn.Linear)}
    return found
