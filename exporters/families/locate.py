"""A model reference -> a path on this machine, fetching it where it is a name."""

from __future__ import annotations

import re
from pathlib import Path

from edgeskip.errors import EdgeSkipError, MissingExtraError

# README.md is the model card, which names the licence.
_WANTED = [
    *("*.json", "model*.safetensors", "adapter_model.safetensors", "*.jinja"),
    *("tokenizer.model", "merges.txt", "vocab.txt", "README.md"),
]
_HELP = "a model is a ready model's name, a Hugging Face or PEFT folder, a .gguf file or a hub id such as org/name"


def locate(reference: str) -> tuple[Path, str]:
    """(path of a folder or GGUF file, short name). An existing path wins over a ready model, that over a hub id."""
    if (path := _existing(reference)) is not None:
        return path, short_name(path.resolve())
    from edgeskip.models.registry import READY_MODELS

    if reference in READY_MODELS:
        from edgeskip.fetch import fetch

        return fetch(reference), reference
    if re.fullmatch(r"[\w.-]+/[\w.-]+", reference) and not reference.startswith((".", "/")):
        return _download(reference), reference.split("/")[1]
    raise EdgeSkipError(f"there is no model {reference!r}: {_HELP} (ready models: {', '.join(READY_MODELS)})")


def _existing(reference: str) -> Path | None:
    try:
        path = Path(reference).expanduser()
        return path if reference and path.exists() else None
    except (OSError, RuntimeError):  # a name too long for the file system; the home of an unknown user
        return None


def short_name(path: Path) -> str:
    """`SmolLM2-135M-Instruct.Q4_1.gguf` -> `SmolLM2-135M-Instruct`; a folder's own name."""
    if path.is_dir():
        return path.name or "model"
    return re.sub(r"[.-](I?Q\d\w*|T?Q\d\w*|B?F16|F32|MXFP4\w*)$", "", path.stem, flags=re.IGNORECASE) or path.stem


def _download(hub_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtraError("huggingface_hub", "export") from None
    try:
        return Path(snapshot_download(hub_id, allow_patterns=_WANTED, ignore_patterns=["*/*"]))
    except Exception as error:  # offline, no such repository, gated: the library has a dozen types, all with a message
        reason = str(error).strip().split("\n")[0]
        raise EdgeSkipError(f"cannot fetch {hub_id!r} from the Hugging Face hub ({reason}); {_HELP}") from None
