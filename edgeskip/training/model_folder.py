"""Writes a fully fine-tuned model as a Hugging Face folder, with the source's own config and tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edgeskip.models.source import ModelSource


def save_model(source: ModelSource, model: PreTrainedModel, folder: Path) -> None:
    """config.json, generation_config.json, model.safetensors (float32) and the tokenizer."""
    from safetensors.torch import save_file

    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    # transformers goes by `dtype` where a config has both.
    config = {key: value for key, value in source.config.items() if key != "dtype"} | {"torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    generation = json.dumps(dict(source.generation_config), indent=2)
    (folder / "generation_config.json").write_text(generation + "\n", encoding="utf-8")
    source.write_tokenizer(folder)
