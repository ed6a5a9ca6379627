"""What a stored model offers, whatever its file format: config, generation settings, named weights, tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeskip.artifacts.gguf.header import GgufHeader
from edgeskip.models.decoder import Tensor
from edgeskip.models.families.family import Family
from edgeskip.models.readers.tokenizer_source import TokenizerSource


@dataclass(frozen=True)
class Checkpoint:
    """A model as stored. `config` is completed; `tensors` are lazy and have Hugging Face's parameter names.

    `gguf` is the header of the GGUF they are stored in, None for another format. `files` are those that decide the
    numbers (weights, and the config if it is a separate file). `tokenizer` is read when it is first needed.
    """

    family: Family
    config: dict[str, Any]
    generation_config: dict[str, Any]
    tensors: dict[str, Tensor]
    files: tuple[Path, ...]
    file: str  # where the config came from, for messages
    tokenizer: TokenizerSource
    gguf: GgufHeader | None = None
    own_end_tokens: bool = False  # a GGUF of EdgeSkip, which lists them all
