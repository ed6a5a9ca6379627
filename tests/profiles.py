"""Small profiles made by hand, for tests that need one without a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeskip.core.sublayers import sublayers_of
from edgeskip.profiles.schema import (
    CalibrationRecord,
    ModelRecord,
    PhaseStatistics,
    PlanRecord,
    Profile,
    SublayerStatistics,
    write_profile,
)
from edgeskip.profiles.vectors import Vectors, pack_vectors

HIDDEN_SIZE = 3
# attn.0, ffn.0, attn.1, ffn.1, … of 4 blocks; ffn.1 and attn.3 tie.
SIMILARITY = (0.50, 0.60, 0.90, 0.95, 0.99, 0.70, 0.95, 0.40)


def make_vectors(num_blocks: int = 4) -> Vectors:
    generator = np.random.default_rng(0)
    mean_in, mean_out = generator.normal(size=(2, 2 * num_blocks, HIDDEN_SIZE)).astype(np.float32)
    return Vectors({"prefill": mean_in}, {"prefill": mean_out})


def make_profile(
    similarity: tuple[float, ...] = SIMILARITY, plan: PlanRecord | None = None, path: Path = Path("m.json")
) -> Profile:
    """A profile for `path`: scale is 1 + similarity, affine_scale 0.5 + similarity."""
    num_blocks = len(similarity) // 2
    model = ModelRecord(
        source="m",
        name="m",
        family="llama",
        fingerprint="f",
        num_blocks=num_blocks,
        hidden_size=HIDDEN_SIZE,
        vocab_size=8,
    )
    calibration = CalibrationRecord(
        corpus=[], context=8, seed=0, dtype="float32", created="2025-01-01T00:00:00Z", versions={}
    )
    sublayers = [
        SublayerStatistics(
            name=str(sublayer),
            prefill=PhaseStatistics(
                tokens=8,
                similarity=value,
                scale=1.0 + value,
                affine_scale=0.5 + value,
                error=0.2,
                affine_error=0.1,
                mean_square_in=1.0,
                mean_square_out=1.0,
                mean_dot=1.0,
            ),
        )
        for sublayer, value in zip(sublayers_of(num_blocks), similarity, strict=True)
    ]
    vectors, _ = pack_vectors(make_vectors(num_blocks), path)
    return Profile(model=model, calibration=calibration, sublayers=sublayers, vectors=vectors, plan=plan)


def write_made_profile(path: Path, plan: PlanRecord | None = None) -> Profile:
    """Writes such a profile and its vectors file."""
    profile = make_profile(plan=plan, path=path)
    write_profile(profile, path, pack_vectors(make_vectors(), path)[1])
    return profile
