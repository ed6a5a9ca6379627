"""A model reference -> ModelSource, the object through which every later stage reads a model."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of
from edgeskip.models.decoder import Decoder, Tensor
from edgeskip.models.families.architecture_config import ArchitectureConfig
from edgeskip.models.families.canonical import decoder_of
from edgeskip.models.locate import locate
from edgeskip.models.readers.checkpoint import Checkpoint
from edgeskip.models.readers.json_file import read_json
from edgeskip.models.readers.loaded_tokenizer import CONFIG
from edgeskip.models.readers.tokenizer_source import (
    TokenizerSource,
    fast_tokenizer,
    peft_tokenizer,
    write_files,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from edgeskip.models.readers.lora import Lora
    from edgeskip.profiles.schema import AdapterRecord, ModelRecord

GENERATION_CONFIG = "generation_config.json"
# Above it an artifact is checked without ONNX Runtime's second, prepacked copy of the weights.
_LARGE_PARAMETERS = 500_000_000


@dataclass(frozen=True)
class Adaptation:
    """That a model is another one with a LoRA merged into its weights. The base has no LoRA itself."""

    base: ModelSource
    lora: Lora


@dataclass(frozen=True)
class ModelSource:
    """A model on this machine, opened: headers read and checked, weights not.

    `reference` is what the user named, `path` the folder or file it stands for, `name` a short name for outputs.
    """

    reference: str
    path: Path
    name: str
    checkpoint: Checkpoint
    adaptation: Adaptation | None = None

    @property
    def config(self) -> dict[str, Any]:
        """Hugging Face's config.json, completed: no default left to assume, rotary settings in transformers 4's
        spelling (`rope_theta`, `rope_scaling`), which every version reads."""
        return self.checkpoint.config

    @property
    def generation_config(self) -> dict[str, Any]:
        """generation_config.json: special token ids at least."""
        return self.checkpoint.generation_config

    @cached_property
    def end_tokens(self) -> tuple[int, ...]:
        """Ids that end a text, each once: the generation config's, the config's and the tokenizer's eos_token.

        Ids that the embedding has no row for are left out: they are never generated. A GGUF's own are as its keys say.
        """
        found: list[int] = []
        for settings in (self.generation_config, self.config):
            ids = settings.get("eos_token_id")
            found += ids if isinstance(ids, list) else [] if ids is None else [ids]
        eos = json.loads(self.checkpoint.tokenizer.files[CONFIG]).get("eos_token")
        named = self.encoder().token_to_id(eos) if isinstance(eos, str) else None
        found += [] if named is None else [named]
        return tuple(index for index in dict.fromkeys(found) if 0 <= index < self.decoder.config.vocab_size)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Hugging Face parameter name -> lazy float32 tensor."""
        return self.checkpoint.tensors

    @cached_property
    def decoder(self) -> Decoder:
        """The canonical decoder; weights stay lazy."""
        return decoder_of(self.checkpoint.family, ArchitectureConfig(self.config, self.checkpoint.file), self.tensors)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over the names and sha256 of the files that decide the numbers.

        A folder: config.json and the weight files. A GGUF: the hash of the file itself, whatever its name.
        With a LoRA: over that of the model without it and what the LoRA says.
        """
        if self.adaptation is not None:
            from edgeskip.models.readers.lora import adapted_fingerprint

            return adapted_fingerprint(self.adaptation.base.fingerprint, self.adaptation.lora)
        files = self.checkpoint.files
        if len(files) == 1:
            return sha256_of(files[0])
        digest = hashlib.sha256()
        for file in sorted(files, key=lambda file: file.name):
            digest.update(f"{file.name} {sha256_of(file)}\n".encode())
        return digest.hexdigest()

    def record(self) -> ModelRecord:
        """Return the model's entry in a profile or manifest. With a LoRA, `source` is the model that it is of."""
        from edgeskip.profiles.schema import ModelRecord

        config, adaptation = self.decoder.config, self.adaptation
        return ModelRecord(
            source=adaptation.base.reference if adaptation else self.reference,
            name=self.name,
            family=config.family,
            fingerprint=self.fingerprint,
            num_blocks=config.num_blocks,
            hidden_size=config.hidden_size,
            vocab_size=config.vocab_size,
            adapter=self._adapter_record(),
        )

    def _adapter_record(self) -> AdapterRecord | None:
        """Return the record of `stored_lora`; the profile sets its file name (`edgeskip.profiles.schema.model_at`)."""
        if self.adaptation is None or self.stored_lora is None:
            return None
        from edgeskip.profiles.schema import AdapterRecord

        digest = hashlib.sha256(self.stored_lora).hexdigest()
        base = self.adaptation.base.fingerprint
        return AdapterRecord(file=f"{self.name}.adapter.safetensors", sha256=digest, base_fingerprint=base)

    @cached_property
    def stored_lora(self) -> bytes | None:
        """The file with the LoRA that is stored beside a profile; None if there is no LoRA."""
        if self.adaptation is None:
            return None
        from edgeskip.models.readers.lora import pack_lora

        return pack_lora(self.adaptation.lora, self._own_files())

    def _own_files(self) -> dict[str, bytes]:
        """Return the tokenizer files that the PEFT folder adds to its model's: profiles do not name the folder."""
        if self.adaptation is None:
            return {}
        base = self.adaptation.base.checkpoint
        files: dict[str, bytes] = {}
        if self.checkpoint.tokenizer is not base.tokenizer:
            files.update(self.checkpoint.tokenizer.files)
        if self.generation_config != base.generation_config:
            files[GENERATION_CONFIG] = json.dumps(self.generation_config).encode("utf-8")
        return files

    def write_tokenizer(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json with the chat template and special_tokens_map.json: what
        transformers loads, whatever files it was in."""
        write_files(self.checkpoint.tokenizer.files, folder)

    def encoder(self) -> Tokenizer:
        """Return the tokenizers library's tokenizer that gives a text the ids that transformers gives it."""
        return fast_tokenizer(self.checkpoint.tokenizer.files)


def open_model(reference: str) -> ModelSource:
    """Open a preset's name, a Hugging Face folder, a PEFT folder with a LoRA, a `.gguf` file or a hub id.

    Raises EdgeSkipError if it is none of these, damaged, incomplete or of an unsupported family.
    """
    return _open_reference(reference, ())


def with_lora(
    base: ModelSource,
    lora: Lora,
    *,
    reference: str,
    name: str,
    file: Path | None = None,
    tokenizer: TokenizerSource | None = None,
    generation_config: Mapping[str, Any] | None = None,
) -> ModelSource:
    """Return `base` with `lora` merged into its weights, which stay lazy; a LoRA that it has already is kept as well.

    `reference` is what the user named, `name` the short name, `file` what the LoRA was read from (None: it was just
    trained). `tokenizer` and `generation_config` replace those of `base`. Raises EdgeSkipError if the LoRA does not
    fit the model.
    """
    from edgeskip.models.readers.lora import combined, merged

    tokenizer = tokenizer or base.checkpoint.tokenizer
    generation = dict(base.generation_config if generation_config is None else generation_config)
    if (before := base.adaptation) is not None:
        base, lora = before.base, combined(before.lora, lora)
    checkpoint = merged(base.checkpoint, lora, file)
    checkpoint = replace(checkpoint, tokenizer=tokenizer, generation_config=generation)
    source = ModelSource(reference, base.path, name, checkpoint, Adaptation(base, lora))
    _ = source.decoder
    return source


def _open_reference(reference: str, through: tuple[Path, ...]) -> ModelSource:
    """Open a reference; `through` are the PEFT folders that led here, each naming the next as its model."""
    from edgeskip.models.readers.peft_folder import WEIGHTS, is_peft_folder, read_peft_folder

    path, name = locate(reference)
    if not is_peft_folder(path):
        source = ModelSource(reference, path, name, _open(path))
        _ = source.decoder  # presence and shape of every weight are checked here, not half-way through an export
        return source
    if path.resolve() in through:
        raise EdgeSkipError(f"{path}: its adapter_config.json names no model but, in the end, this folder itself")
    lora, base = read_peft_folder(path)
    try:
        opened = _open_reference(base, (*through, path.resolve()))
    except EdgeSkipError as error:
        raise EdgeSkipError(f"{path / 'adapter_config.json'}: its model cannot be opened: {error}") from None
    generation = opened.generation_config
    if (path / GENERATION_CONFIG).is_file():
        from edgeskip.models.readers.safetensors_folder import special_ids

        own = read_json(path / GENERATION_CONFIG)
        special_ids(own, str(path / GENERATION_CONFIG))
        generation = {**generation, **own}
    return with_lora(
        opened,
        lora,
        reference=reference,
        name=name,
        file=path / WEIGHTS,
        tokenizer=peft_tokenizer(path, opened.checkpoint.tokenizer),
        generation_config=generation,
    )


def _open(path: Path) -> Checkpoint:
    if path.is_dir():
        from edgeskip.models.readers.safetensors_folder import open_folder

        return open_folder(path)
    if path.suffix.lower() == ".gguf":
        from edgeskip.models.readers.gguf_checkpoint import open_gguf

        return open_gguf(path)
    raise EdgeSkipError(f"{path} is neither a model folder nor a .gguf file: name the folder that has config.json")


def is_large(source: ModelSource) -> bool:
    """Return whether a pass over the model should spare memory rather than time."""
    return sum(math.prod(tensor.shape) for tensor in source.tensors.values()) > _LARGE_PARAMETERS
