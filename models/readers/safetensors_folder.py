"""A Hugging Face model folder (config.json + safetensors, single or sharded) -> Checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.decoder import Tensor
from edgeskip.models.families.architecture_config import ArchitectureConfig
from edgeskip.models.families.registry import family_named
from edgeskip.models.readers.checkpoint import Checkpoint
from edgeskip.models.readers.config import complete_config
from edgeskip.models.readers.json_file import read_json
from edgeskip.models.readers.other_folders import missing_config, missing_weights, refuse_other_models
from edgeskip.models.readers.safetensors_file import read_safetensors
from edgeskip.models.readers.tokenizer_source import FolderTokenizer

_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def open_folder(folder: Path) -> Checkpoint:
    """Read config and headers; raises EdgeSkipError if the folder is not a whole, supported model."""
    path = folder / "config.json"
    if not path.is_file():
        raise missing_config(folder)
    settings = ArchitectureConfig(read_json(path), str(path))
    refuse_other_models(settings)
    family = family_named(settings.text("model_type", "unknown"), settings.file)
    config = complete_config(family, settings)
    tensors, files = _read_weights(folder)
    generation_path = folder / "generation_config.json"
    generation = read_json(generation_path) if generation_path.is_file() else {}
    given = {key: value for key, value in generation.items() if key not in _SPECIAL_IDS}
    ids = {**special_ids(config, settings.file), **special_ids(generation, str(generation_path))}
    return Checkpoint(family, config, {**given, **ids}, tensors, (path, *files), str(path), FolderTokenizer(folder))


def special_ids(config: dict[str, Any], file: str) -> dict[str, Any]:
    """Return the special token ids that a file gives: whole numbers, or a list of them."""
    found = {key: config[key] for key in _SPECIAL_IDS if config.get(key) is not None}
    for key, value in found.items():
        if not all(type(token) is int for token in (value if isinstance(value, list) else [value])):
            raise ArchitectureConfig(config, file).wrong(key, "a token id or a list of them")
    return found


def _read_weights(folder: Path) -> tuple[dict[str, Tensor], list[Path]]:
    single = folder / _SINGLE
    if single.is_file():
        return read_safetensors(single), [single]
    index = folder / _INDEX
    if not index.is_file():
        raise missing_weights(folder)
    mapping = read_json(index).get("weight_map")
    if not isinstance(mapping, dict) or not all(isinstance(file, str) for file in mapping.values()):
        raise EdgeSkipError(f"{index}: 'weight_map' is not an object of file names: fetch the model again")
    shards: dict[str, dict[str, Tensor]] = {}
    for file in sorted(set(mapping.values())):
        if "/" in file or "\\" in file or not file.endswith(".safetensors"):
            raise EdgeSkipError(f"{index} names {file!r}, which is not a safetensors file in its own folder")
        if not (folder / file).is_file():
            raise EdgeSkipError(f"{folder / file} is missing, one of {len(set(mapping.values()))} shards: fetch it")
        shards[file] = read_safetensors(folder / file)
    tensors = {name: shards[file][name] for name, file in mapping.items() if name in shards[file]}
    spare = ("rotary_emb.inv_freq", "lm_head.weight")  # a buffer, and what a tied model does without
    absent = [name for name in mapping if name not in tensors and not name.endswith(spare)]
    if absent:
        raise EdgeSkipError(
            f"{folder / mapping[absent[0]]} lacks {absent[0]!r}, which {_INDEX} says it holds: fetch both again, from "
            "one version of the model"
        )
    return tensors, [folder / file for file in shards]
