"""The profile that training starts from, and the one it writes: the same with trained exits, or with a LoRA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeskip.profiles.exit_adapter import ExitAdapter
from edgeskip.profiles.schema import (
    ExitStatistics,
    Profile,
    locate_profile,
    model_at,
    read_adapter,
    read_profile,
    write_profile,
)
from edgeskip.profiles.vectors import Vectors, pack_vectors, read_vectors
from edgeskip.training.run_folder import RECORD, STARTED

if TYPE_CHECKING:
    from edgeskip.models.readers.lora import Lora
    from edgeskip.models.source import ModelSource


@dataclass(frozen=True)
class TrainedProfile:
    """A profile at `path` with its vectors and its model, opened."""

    path: Path
    profile: Profile
    vectors: Vectors
    source: ModelSource

    def write(
        self,
        folder: Path,
        exits: Sequence[ExitStatistics],
        adapters: Mapping[int, ExitAdapter],
        counts: NDArray[np.int64],
    ) -> Path:
        """Write the profile with these exits in place of those of the same layers; its path, in `folder`.

        What a sweep found before was measured with other exits and is left out.
        """
        path = self.path_in(folder)
        merged = {found.layer: found for found in self.profile.exits} | {found.layer: found for found in exits}
        vectors = replace(
            self.vectors, exit_adapters=dict(self.vectors.exit_adapters) | dict(adapters), token_counts=counts
        )
        record, packed = pack_vectors(vectors, path)
        changed = {
            "model": model_at(self.profile.model, path),
            "vectors": record,
            "exits": [merged[layer] for layer in sorted(merged)],
            "speculation": None,
        }
        trained = self.profile.model_copy(update=changed).moved(self.path, path)
        write_profile(trained, path, packed, read_adapter(self.profile, self.path))
        return path

    def write_healed(self, folder: Path, lora: Lora) -> Path:
        """Write the profile with `lora`, after its own if it has one; its path, in `folder`.

        Exits, sweeps, the front and what decoding may leave out were measured without it and are left out.
        """
        from edgeskip.models.source import with_lora

        path = self.path_in(folder)
        healed = with_lora(self.source, lora, reference=str(path), name=self.profile.model.name)
        record, packed = pack_vectors(replace(self.vectors, exit_maps={}, exit_adapters={}), path)
        changed = {
            "model": model_at(healed.record(), path),
            "vectors": record,
            "exits": [],
            "speculation": None,
            "front": None,
        }
        if (plan := self.profile.plan) is not None:
            of_healed: dict[str, Any] = {
                "healed_from": plan.healed_from or self.profile.model.fingerprint,
                "cost": None,
            }
            if plan.decode_skip:
                of_healed |= {"decode_skip": [], "decode_scales": None, "window": None, "beta": None}
            changed["plan"] = plan.model_copy(update=of_healed)
        written = self.profile.model_copy(update=changed).moved(self.path, path)
        write_profile(written, path, packed, healed.stored_lora)
        return path

    def path_in(self, folder: Path) -> Path:
        """Return where the trained profile goes: named after its model, but never as the run's own files are."""
        path = folder / f"{self.profile.model.name.lower()}.json"
        return path.with_stem(f"{path.stem}-profile") if path.name in (RECORD, STARTED) else path


def open_profile(reference: str | Path | Profile, model: str | None = None) -> TrainedProfile:
    """Return a profile (a path, the name of a preset, or the profile itself) with its model, or with `model` instead.

    Raises:
        EdgeSkipError: if there is no such profile or model.
    """
    from edgeskip.core.errors import EdgeSkipError
    from edgeskip.models.profile_source import check_weights, source_of

    try:
        path = reference.working_path() if isinstance(reference, Profile) else locate_profile(reference)
    except EdgeSkipError as error:
        raise EdgeSkipError(
            f"{reference} is not a profile ({error}); this method trains a profile, made with  edgeskip calibrate"
        ) from None
    profile = reference if isinstance(reference, Profile) else read_profile(path)
    source = source_of(profile, path, model)
    check_weights(source, profile)
    return TrainedProfile(path, profile, read_vectors(profile, path), source)
