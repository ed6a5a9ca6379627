"""LoRA on a torch model by peft: which layers get one, and how it is saved."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeskip.calibration.blocks import blocks_of
from edgeskip.errors import EdgeSkipError, MissingExtraError
from edgeskip.sublayers import Sublayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edgeskip.exporters.families.source import ModelSource
    from edgeskip.training.policy import Lora


def with_lora(model: PreTrainedModel, lora: Lora, *, seed: int, without: Collection[Sublayer] = ()) -> Any:
    """The model as peft's, with a LoRA on every linear layer of its blocks but the sublayers `without`.

    The model itself is changed in place; its own weights are frozen. A's start values follow from `seed`; B starts at
    zero, so that nothing is different before the first step.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingExtraError("peft", "train") from None
    import torch

    torch.manual_seed(seed)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=_linear_layers(model, without))
    return get_peft_model(model, config)


def save_lora(adapted: Any, source: ModelSource, folder: Path) -> None:
    """Writes peft's adapter_config.json, naming the source as base, and adapter_model.safetensors in float16.

    EdgeSkipError where a weight does not fit into float16.
    """
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    weights = {
        name: tensor.detach().cpu().to(torch.float16).contiguous()
        for name, tensor in get_peft_model_state_dict(adapted).items()
    }
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise EdgeSkipError("the LoRA's weights overflow float16: lower --learning-rate")
    config = adapted.peft_config["default"]
    config.base_model_name_or_path = base_reference(source)
    config.inference_mode = True
    config.target_modules = sorted({name.rpartition(".")[2] for name in config.target_modules})
    config.save_pretrained(str(folder))
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def round_lora(adapted: Any) -> None:
    """Rounds the LoRA's weights to float16, as they are saved, so that what is measured is what is shipped."""
    import torch

    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(parameter.to(torch.float16).to(parameter.dtype))


def base_reference(source: ModelSource) -> str:
    """What another folder names to have this model: its name where it has one, else its absolute path."""
    return str(Path(source.reference).resolve()) if Path(source.reference).exists() else source.reference


def _linear_layers(model: PreTrainedModel, without: Collection[Sublayer]) -> list[str]:
    from torch import nn

    names = {module: name for name, module in model.named_modules()}
    found = []
    for index, block in enumerate(blocks_of(model)):
        for sublayer, part in (
            (Sublayer(index, "attn"), block.attention),
            (Sublayer(index, "ffn"), block.ffn),
        ):
            if sublayer not in without:
                found += [names[module] for module in part.modules() if isinstance(module, nn.Linear)]
    return found
