"""Profiles of random numbers for a given model, so that exports can be tested without calibrating."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeskip.core.plan import Compensation
from edgeskip.core.sublayers import sublayers_of
from edgeskip.profiles.schema import (
    CalibrationRecord,
    CorpusFile,
    PhaseStatistics,
    PlanRecord,
    Profile,
    SublayerStatistics,
    model_at,
    write_profile,
)
from edgeskip.profiles.vectors import Vectors, pack_vectors

if TYPE_CHECKING:
    from edgeskip.models.source import ModelSource


def random_profile(
    source: ModelSource,
    path: Path,
    *,
    skip: tuple[str, ...] = (),
    compensation: Compensation = "affine",
    seed: int = 0,
) -> tuple[Profile, Vectors]:
    """Writes a profile of `source` (and the files beside it) to `path`; scales are 0.8 … 1.3, biases of order 0.1.

    The plan skips the sublayers named in `skip`, in execution order; no names = no plan = dense.
    """
    rng = np.random.default_rng(seed)
    model = model_at(source.record(), path)
    shape = (2 * model.num_blocks, model.hidden_size)
    mean_in, mean_out = rng.normal(scale=0.1, size=(2, *shape)).astype(np.float32)
    vectors = Vectors({"prefill": mean_in}, {"prefill": mean_out})
    record, packed = pack_vectors(vectors, path)
    sublayers = [
        SublayerStatistics(
            name=str(sublayer),
            prefill=PhaseStatistics(
                tokens=64,
                similarity=float(rng.uniform(0.5, 1.0)),
                scale=float(rng.uniform(0.8, 1.3)),
                affine_scale=float(rng.uniform(0.8, 1.3)),
                error=0.1,
                affine_error=0.05,
                mean_square_in=1.0,
                mean_square_out=1.0,
                mean_dot=1.0,
            ),
        )
        for sublayer in sublayers_of(model.num_blocks)
    ]
    plan = PlanRecord(method="explicit", compensation=compensation, skip=list(skip)) if skip else None
    profile = Profile(
        model=model,
        calibration=CalibrationRecord(
            corpus=[CorpusFile(name="none", sha256="00" * 32)],
            context=64,
            seed=seed,
            dtype="float32",
            created="2025-01-01T00:00:00Z",
            versions={"edgeskip": "0.1.0"},
        ),
        sublayers=sublayers,
        vectors=record,
        plan=plan,
    )
    write_profile(profile, path, packed, source.stored_lora)
    return profile, vectors
