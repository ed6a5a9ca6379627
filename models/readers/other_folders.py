"""What a folder is that cannot be opened as a model, in one line each with what to do instead."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from edgeskip.core.errors import EdgeSkipError
from edgeskip.models.families.architecture_config import ArchitectureConfig
from edgeskip.models.readers.quantized import quantization_error, quantized_by_files

_PICKLES = ("*.bin", "*.pth", "*.pt", "*.ckpt")
_INDEX = ".safetensors.index.json"
_MULTIMODAL = ("vision_config", "audio_config", "vision_tower", "mm_vision_tower", "speech_config", "thinker_config")
_CONVERT = (
    'python -c "import sys; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
    '[C.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2]) for C in (M, T)]"'
)


def missing_config(folder: Path) -> EdgeSkipError:
    """Return the error for a folder without config.json."""
    ggufs = sorted(file.name for file in folder.glob("*.gguf"))
    snapshots = sorted(path.parent for path in folder.glob("snapshots/*/config.json"))
    if ggufs:
        hint = f"name the GGUF file itself, e.g. {folder / ggufs[0]}"
    elif snapshots:
        hint = f"name the snapshot in it, {snapshots[0]}"
    elif (folder / "params.json").is_file():
        hint = "this is the form its maker trains it in; use the Hugging Face form of the model"
    elif (folder / "model_index.json").is_file():
        hint = "this is an image or video model (diffusers); EdgeSkip reads decoder-only language models"
    elif inside := sorted(path.parent.name for path in folder.glob("*/config.json")):
        hint = f"it is not a model folder; name the one inside it, e.g. {folder / inside[0]}"
    else:
        hint = "it is not a model folder"
    return EdgeSkipError(f"{folder} has no config.json: {hint}")


def missing_weights(folder: Path) -> EdgeSkipError:
    """Return the error for a folder with a config.json and neither model.safetensors nor its index."""
    if (folder / "edgeskip.json").is_file():
        return EdgeSkipError(
            f"{folder} is an artifact that EdgeSkip exported, not a model: name the model it was made from"
        )
    for index in sorted(folder.glob(f"*{_INDEX}")):
        if _quantized_names(index) is not None:
            return quantization_error(str(folder), _quantized_names(index) or "")
    if (method := quantized_by_files(folder)) is not None:
        return quantization_error(str(folder), method)
    others = sorted(folder.glob("*.safetensors"))
    others = [file for file in others if not file.name.startswith("adapter")]
    for file in others:
        _read_header(file)  # raises what is wrong with the file itself, quantized weights for example
    shards = [file.name for file in others if "-of-" in file.name]
    if shards:
        return EdgeSkipError(
            f"{folder} has shards such as {shards[0]} but no model{_INDEX}, which says what each holds: fetch that "
            "file too"
        )
    if len(others) == 1 and others[0].name != "consolidated.safetensors":
        return EdgeSkipError(
            f"{folder} has {others[0].name}, which transformers does not read either: if it holds the whole model, "
            "rename it to model.safetensors"
        )
    if any(any(folder.glob(pattern)) for pattern in _PICKLES):
        return EdgeSkipError(
            f"{folder} has its weights as a pickle, which can run code and is never read: use a safetensors or GGUF "
            f"version of the model or, if you trust it, convert it:  {_CONVERT} "
            f"{shlex.quote(str(folder))} {shlex.quote(folder.name + '-safetensors')}"
        )
    found = f" (only {others[0].name}, in its maker's own form)" if others else ""
    return EdgeSkipError(
        f"{folder} has neither model.safetensors nor model.safetensors.index.json{found}: fetch the model again, all "
        "its files"
    )


def refuse_other_models(settings: ArchitectureConfig) -> None:
    """Raise EdgeSkipError for a config.json of a model that is not a decoder-only language model."""
    from edgeskip.models.families.registry import FAMILIES

    values = settings.values
    kind = None
    if values.get("is_encoder_decoder") is True or isinstance(values.get("decoder"), dict):
        kind = "an encoder-decoder model"
    elif any(isinstance(values.get(key), dict | str) for key in _MULTIMODAL):
        kind = "a multimodal model"
    elif "text_config" in values and not settings.has("hidden_size"):
        kind = "a model with a language model inside it (text_config)"
    if kind is not None:
        raise EdgeSkipError(
            f"{settings.file}: this is {kind} ({settings.text('model_type', 'unknown')}); supported are decoder-only "
            f"text models of the families {', '.join(FAMILIES)}"
        )
    names = values.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    if name.endswith(("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForRewardModel")):
        raise EdgeSkipError(
            f"{settings.file}: {name} has no language-model head, so it writes no text: use a ForCausalLM model"
        )


def _quantized_names(index: Path) -> str | None:
    from edgeskip.models.readers.quantized import quantized_by_weights

    try:
        mapping = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return quantized_by_weights({str(name): "F32" for name in mapping})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _read_header(file: Path) -> None:
    from edgeskip.models.readers.safetensors_file import read_safetensors

    read_safetensors(file)
