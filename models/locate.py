"""A model reference -> a path on this machine; names are fetched."""

from __future__ import annotations

import os
import re
from pathlib import Path

from edgeskip.core.errors import EdgeSkipError, MissingExtraError

# README.md is the model card, which names the license.
_WANTED = [
    *("*.json", "model*.safetensors", "adapter_model.safetensors", "*.jinja"),
    *("tokenizer.model", "merges.txt", "vocab.txt", "README.md"),
]
_HELP = "a model is a preset's name, a Hugging Face or PEFT folder, a .gguf file or a hub id such as org/name"


def locate(reference: str) -> tuple[Path, str]:
    """Return the path of a folder or GGUF file, and a short name.

    An existing path has precedence over a preset's name, and that over a hub id."""
    if (path := existing_path(reference)) is not None:
        return path, short_name(path)
    from edgeskip.profiles.registry import READY_MODELS

    if reference in READY_MODELS:
        from edgeskip.models.fetch import fetch

        return fetch(reference), reference
    if _is_hub_id(reference):
        return _download(reference), reference.split("/")[1]
    raise EdgeSkipError(f"there is no model {reference!r}: {_HELP} (presets: {', '.join(READY_MODELS)})")


def is_name(reference: str) -> bool:
    """Return whether a reference that is not an existing path may be a preset's name or a hub id."""
    from edgeskip.profiles.registry import READY_MODELS

    return reference in READY_MODELS or _is_hub_id(reference)


def _is_hub_id(reference: str) -> bool:
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", reference)) and not reference.startswith((".", "/"))


def existing_path(reference: str) -> Path | None:
    """Return the path that a reference is; None if nothing is there."""
    try:
        path = Path(reference).expanduser()
        return path if reference and path.exists() else None
    except (OSError, RuntimeError):  # a name too long for the file system; the home of an unknown user
        return None


def short_name(path: Path) -> str:
    """Return a file's name without its quantization (`SmolLM2-135M-Instruct.Q4_1.gguf` -> `SmolLM2-135M-Instruct`).

    A folder's name is returned as it is.

    A snapshot of the Hugging Face cache, `models--org--NAME/snapshots/HASH`, is called NAME. Links are not followed:
    they have names, what they lead to there is called by hashes.
    """
    absolute = Path(os.path.normpath(path.absolute()))
    if path.is_dir():
        return _repository(absolute) or absolute.name or "model"
    stem = absolute.stem
    return re.sub(r"[.-](I?Q\d\w*|T?Q\d\w*|B?F16|F32|MXFP4\w*)$", "", stem, flags=re.IGNORECASE) or stem


def _repository(folder: Path) -> str | None:
    """Return the name of the repository whose cache `folder` is, or is a snapshot of; None for any other folder."""
    cache = folder.parent.parent if folder.parent.name == "snapshots" else folder
    match = re.fullmatch(r"models--(?:(?!--).+?--)?(.+)", cache.name)
    return match[1] if match else None


def _download(hub_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtraError("huggingface_hub", "export") from None
    try:
        from edgeskip.core.progress import current_progress
        from edgeskip.models.fetch import hub_bars

        bars = hub_bars(f"fetching {hub_id}", current_progress())
        return Path(snapshot_download(hub_id, allow_patterns=_WANTED, ignore_patterns=["*/*"], tqdm_class=bars))
    except Exception as error:  # offline, no such repository, gated: the library has a dozen types, all with a message
        reason = str(error).strip().split("\n")[0]
        raise EdgeSkipError(f"cannot fetch {hub_id!r} from the Hugging Face hub ({reason}); {_HELP}") from None
