"""Random LoRAs of tiny models, as PEFT folders. That PEFT reads such a folder is `test_lora`'s to show."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeskip.models.readers.lora import Lora, LoraWeight
from edgeskip.models.readers.peft_folder import peft_files
from edgeskip.models.source import open_model


def tiny_lora(base: Path | str, *, rank: int = 4, seed: int = 0) -> Lora:
    """Of q, v, o and down of every block, large enough that the logits change."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, tensor in open_model(str(base)).tensors.items():
        if name.endswith(("q_proj.weight", "v_proj.weight", "o_proj.weight", "down_proj.weight")):
            out, into = tensor.shape
            a, b = rng.normal(scale=0.2, size=(rank, into)), rng.normal(scale=0.2, size=(out, rank))
            weights[name.removesuffix(".weight")] = LoraWeight(a.astype(np.float32), b.astype(np.float32), 0.5)
    return Lora(weights)


def tiny_peft_folder(base: Path | str, folder: Path, *, rank: int = 4, seed: int = 0) -> Path:
    """A PEFT folder with such a LoRA; it names `base` as it is given."""
    folder.mkdir(parents=True)
    for name, data in peft_files(tiny_lora(base, rank=rank, seed=seed), str(base)).items():
        (folder / name).write_bytes(data)
    return folder
