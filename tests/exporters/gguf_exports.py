"""What the tests of whole GGUF exports share: profiles, requests and a look into the files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gguf
from random_profiles import random_profile

from edgeskip.exporters.options import DraftRequest, ExportPolicy
from edgeskip.models.source import ModelSource
from edgeskip.profiles.schema import Profile
from edgeskip.profiles.vectors import Vectors
from edgeskip.runtime.engines.llamacpp.engine import LlamaCppEngine
from edgeskip.runtime.engines.llamacpp.model import LlamaModel

CHECKED, UNCHECKED = ExportPolicy(), ExportPolicy(check=False)


def profile_of(source: ModelSource, skip: tuple[str, ...], compensation: Any) -> tuple[Profile, Vectors]:
    with tempfile.TemporaryDirectory() as folder:
        return random_profile(source, Path(folder) / "p.json", skip=skip, compensation=compensation)


def early(exit_layer: int | None) -> DraftRequest | None:
    return None if exit_layer is None else DraftRequest("early-exit", (exit_layer,))


def kinds_of(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


def engine_over(path: Path) -> LlamaCppEngine:
    return LlamaCppEngine(LlamaModel(path), threads=1)
