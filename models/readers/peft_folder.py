"""A folder in PEFT's format (adapter_config.json, adapter_model.safetensors) <-> Lora; PEFT itself is not needed."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.families.architecture_config import ArchitectureConfig
from edgeskip.models.readers.json_file import read_json
from edgeskip.models.readers.lora import PREFIX, Lora, arrays_of, lora_of
from edgeskip.models.readers.safetensors_file import read_safetensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base_model_name_or_path"
# Each changes what the model computes in another way than W + scaling·B·A does.
_UNSUPPORTED = (
    *("modules_to_save", "use_dora", "lora_bias", "use_qalora", "use_bdlora", "fan_in_fan_out", "layer_replication"),
    *("trainable_token_indices", "target_parameters", "alora_invocation_tokens", "arrow_config", "kasa_config"),
    *("megatron_config", "monteclora_config", "velora_config"),
)
# The others (pissa, olora, corda, loftq …) change the base's weights as well.
_INITIALIZATIONS = (None, True, False, "gaussian", "orthogonal", "eva")


def is_peft_folder(path: Path) -> bool:
    """Return whether `path` holds an adapter and no model."""
    return (path / CONFIG).is_file() and not (path / "config.json").is_file()


def read_peft_folder(folder: Path) -> tuple[Lora, str]:
    """Return the LoRA in `folder` and the reference of the model it is of, as the folder names it.

    EdgeSkipError for what is not a plain LoRA on linear layers, a folder that names no model, and damaged files.
    """
    settings = ArchitectureConfig(read_json(folder / CONFIG), str(folder / CONFIG))
    _refuse_unsupported(settings)
    base = settings.text(BASE, "")
    if not base:
        raise EdgeSkipError(f"{settings.file} does not name its model: write its folder or hub id as {BASE!r}")
    weights = folder / WEIGHTS
    if not weights.is_file():
        pickled = " (a pickle can run code and is never read)" if (folder / "adapter_model.bin").is_file() else ""
        raise EdgeSkipError(f"{weights} is missing{pickled}: save the adapter again, as safetensors")
    arrays = {name: tensor.read() for name, tensor in read_safetensors(weights).items()}
    modules = {name.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for name in arrays}
    return lora_of(arrays, {module: _scaling(settings, module) for module in modules}, str(weights)), base


def _refuse_unsupported(settings: ArchitectureConfig) -> None:
    config, advice = settings.values, "merge it with PEFT's merge_and_unload and name the merged model"
    if config.get("peft_type") != "LORA":
        raise EdgeSkipError(f"{settings.file}: 'peft_type' is {config.get('peft_type')!r}, only LORA is read: {advice}")
    found = [key for key in _UNSUPPORTED if config.get(key)]
    if config.get("bias", "none") != "none":
        found.append("bias")
    if config.get("init_lora_weights") not in _INITIALIZATIONS:
        found.append("init_lora_weights")
    if found:
        raise EdgeSkipError(f"{settings.file}: {found[0]!r} is {config[found[0]]!r}, not a plain LoRA: {advice}")


def _scaling(settings: ArchitectureConfig, module: str) -> float:
    """Return alpha/r, with rsLoRA alpha/√r (Kalajdzievski 2023)."""
    rank = _patterned(settings, "rank_pattern", module, "r")
    alpha = _patterned(settings, "alpha_pattern", module, "lora_alpha")
    if rank <= 0:
        raise settings.wrong("r", "a positive number")
    return alpha / (math.sqrt(rank) if settings.values.get("use_rslora") else rank)


def _patterned(settings: ArchitectureConfig, patterns: str, module: str, usual: str) -> float:
    """Return the value of the first pattern that ends `module`'s name, as PEFT matches them, else the usual one."""
    given = settings.table(patterns).items()
    try:
        found = (value for key, value in given if re.match(rf"(.*\.)?({key})$", module))
        value: Any = next(found, settings.values.get(usual))
    except re.error:
        raise settings.wrong(patterns, "an object of regular expressions") from None
    if type(value) not in (int, float):
        raise settings.wrong(usual, "a number")
    return float(value)


def peft_files(lora: Lora, base: str) -> dict[str, bytes]:
    """Return file name → content of the folder that PEFT reads `lora` from; `base` is the model's reference."""
    from safetensors.numpy import save

    ranks = {module: weight.rank for module, weight in lora.weights.items()}
    alphas = {module: weight.scaling * weight.rank for module, weight in lora.weights.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        BASE: base,
        "r": rank,
        "lora_alpha": _whole(alpha),
        "rank_pattern": {module: value for module, value in ranks.items() if value != rank},
        "alpha_pattern": {module: _whole(value) for module, value in alphas.items() if value != alpha},
        "target_modules": sorted(lora.weights),
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    return {CONFIG: text.encode("utf-8"), WEIGHTS: save(arrays_of(lora), metadata={"format": "pt"})}


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value
