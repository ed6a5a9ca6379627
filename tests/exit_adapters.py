"""Random exit adapters for tiny models, in profiles as training writes them, and the model that each drafts as."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_profiles import random_profile

from edgeskip.models.source import ModelSource
from edgeskip.profiles.exit_adapter import AdapterKind, ExitAdapter
from edgeskip.profiles.schema import ExitStatistics, Profile
from edgeskip.profiles.vectors import Vectors


def random_adapter(source: ModelSource, kind: AdapterKind, seed: int = 0) -> ExitAdapter:
    """A map near the identity; a block of the shapes of the model's first, norms about 1, of weights that matter."""
    rng = np.random.default_rng(seed)
    size = source.decoder.config.hidden_size
    prefix = "model.layers.0."
    block = {}
    for name, tensor in source.tensors.items():
        if kind == "block" and name.startswith(prefix):
            if name.endswith("norm.weight"):
                array = rng.uniform(0.5, 1.5, tensor.shape)
            else:
                array = rng.normal(scale=1.2 / tensor.shape[-1] ** 0.5, size=tensor.shape)
            block[name.removeprefix(prefix)] = array.astype(np.float16).astype(np.float32)
    exit_map = np.eye(size) + rng.normal(scale=0.1, size=(size, size))
    return ExitAdapter(exit_map.astype(np.float16).astype(np.float32), block)


def adapted_profile(
    source: ModelSource, path: Path, adapters: dict[int, ExitAdapter], skip: tuple[str, ...] = ()
) -> tuple[Profile, Vectors]:
    """A profile, in memory only, with `adapters` by exit layer; every third token is frequent."""
    profile, vectors = random_profile(source, path, skip=skip)
    exits = [
        ExitStatistics(layer=n, tokens=99, plain_agreement=0.25, adapter=found.kind, adapter_agreement=0.5)
        for n, found in adapters.items()
    ]
    counts = np.where(np.arange(profile.model.vocab_size) % 3 == 1, 100, 1).astype(np.int64)
    vectors = replace(vectors, exit_adapters=adapters, token_counts=counts)
    return profile.model_copy(update={"exits": exits}), vectors


def drafting_model(model: Any, layer: int, adapter: ExitAdapter) -> Any:
    """`model` cut after `layer` blocks, the adapter's block the next one's weights, its map in the head: transformers'
    own computation of what the exit drafts. Where blocks differ, block `layer` must be as the first."""
    cut = copy.deepcopy(model)
    blocks = list(cut.model.layers)[: layer + bool(adapter.block)]
    if adapter.block:
        blocks[-1].load_state_dict({name: torch.from_numpy(array) for name, array in adapter.block.items()})
    cut.model.layers = torch.nn.ModuleList(blocks)
    cut.config.num_hidden_layers = cut.model.config.num_hidden_layers = len(blocks)
    head = model.lm_head.weight.detach() @ torch.from_numpy(adapter.map)
    cut.lm_head = torch.nn.Linear(*head.shape[::-1], bias=False)
    cut.lm_head.weight = torch.nn.Parameter(head)
    cut.model.norm.weight = torch.nn.Parameter(torch.ones(len(adapter.map)))
    return cut.eval()
