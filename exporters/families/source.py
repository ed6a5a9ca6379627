"""A model reference -> ModelSource, the one object every later stage reads a model through."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeskip.errors import EdgeSkipError
from edgeskip.exporters.decoder import Decoder, Tensor
from edgeskip.exporters.families.canonical import decoder_of
from edgeskip.exporters.families.checkpoint import Checkpoint
from edgeskip.exporters.families.locate import locate
from edgeskip.exporters.families.settings import Settings
from edgeskip.files import sha256_of

if TYPE_CHECKING:
    from edgeskip.profile import ModelRecord


@dataclass(frozen=True)
class ModelSource:
    """A model on this machine, opened: headers read and checked, weights not.

    `reference` is what the user named, `path` the folder or file it stands for, `name` a short name for outputs.
    """

    reference: str
    path: Path
    name: str
    checkpoint: Checkpoint

    @property
    def config(self) -> dict[str, Any]:
        """Hugging Face's config.json, completed: no default left to assume, rotary settings in transformers 4's
        spelling (`rope_theta`, `rope_scaling`), which every version reads."""
        return self.checkpoint.config

    @property
    def generation_config(self) -> dict[str, Any]:
        """generation_config.json: special token ids at least."""
        return self.checkpoint.generation_config

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Hugging Face parameter name -> lazy float32 tensor."""
        return self.checkpoint.tensors

    @cached_property
    def decoder(self) -> Decoder:
        """The canonical decoder; weights stay lazy."""
        return decoder_of(self.checkpoint.family, Settings(self.config, self.checkpoint.file), self.tensors)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over the names and sha256 of the files that decide the numbers.

        A folder: config.json and the weight files. A GGUF: the hash of the file itself, whatever its name.
        """
        files = self.checkpoint.files
        if len(files) == 1:
            return sha256_of(files[0])
        digest = hashlib.sha256()
        for file in sorted(files, key=lambda file: file.name):
            digest.update(f"{file.name} {sha256_of(file)}\n".encode())
        return digest.hexdigest()

    def record(self) -> ModelRecord:
        """The model's entry in a profile or manifest."""
        from edgeskip.profile import ModelRecord

        config = self.decoder.config
        return ModelRecord(
            source=self.reference,
            name=self.name,
            family=config.family,
            fingerprint=self.fingerprint,
            num_blocks=config.num_blocks,
            hidden_size=config.hidden_size,
            vocab_size=config.vocab_size,
        )

    def write_tokenizer(self, folder: Path) -> None:
        """Writes tokenizer.json, tokenizer_config.json with the chat template, special_tokens_map.json if any."""
        self.checkpoint.write_tokenizer(folder)


def open_model(reference: str) -> ModelSource:
    """Opens a ready model's name, a Hugging Face folder, a `.gguf` file or a hub id.

    EdgeSkipError where it is none of these, damaged, incomplete or of an unsupported family.
    """
    path, name = locate(reference)
    source = ModelSource(reference, path, name, _open(path))
    _ = source.decoder  # presence and shape of every weight are checked here, not half-way through an export
    return source


def _open(path: Path) -> Checkpoint:
    if path.is_dir():
        from edgeskip.exporters.families.safetensors_folder import open_folder

        return open_folder(path)
    if path.suffix.lower() == ".gguf":
        from edgeskip.exporters.families.gguf_checkpoint import open_gguf

        return open_gguf(path)
    raise EdgeSkipError(f"{path} is neither a model folder nor a .gguf file: name the folder that has config.json")
