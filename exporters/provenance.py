"""What every artifact records about its origin, whatever its format."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from edgeskip.artifacts.manifest import PlanSummary
from edgeskip.core.requirements import installed_version
from edgeskip.core.version import __version__
from edgeskip.planning.planner import skipped_of

if TYPE_CHECKING:
    from edgeskip.core.plan import Label
    from edgeskip.models.source import ModelSource
    from edgeskip.profiles.schema import Profile


def plan_summary(profile: Profile) -> PlanSummary:
    """Return what is skipped and what replaces it, without the numbers."""
    plan = profile.plan
    return PlanSummary(
        method=plan.method if plan else "dense",
        compensation=plan.compensation if plan else "none",
        skip=[str(sublayer) for sublayer in skipped_of(profile)],
        num_blocks=profile.model.num_blocks,
    )


def plan_label(profile: Profile) -> Label:
    """Return what the output of the profile's plan is called."""
    return "lossy-skip" if profile.plan and profile.plan.skip else "dense"


def inputs_of(source: ModelSource, profile: Profile, *, importance: bool) -> dict[str, str]:
    """Return fingerprints of what an artifact is made from.

    `importance`: quantized by what matters on the shipped text, whatever the profile was calibrated on.
    """
    from edgeskip.calibration.corpus import corpus_named

    calibrated = {f"corpus {file.name}": file.sha256 for file in profile.calibration.corpus}
    weighed = {f"importance {file.name}": file.sha256 for file in corpus_named(()).files} if importance else {}
    return {"model": source.fingerprint, "vectors": profile.vectors.sha256} | calibrated | weighed


def software_versions(*packages: str) -> dict[str, str]:
    """Return the versions of EdgeSkip, Python and those of the `packages` that are installed."""
    own = {"edgeskip": __version__, "python": platform.python_version()}
    return own | {package: version for package in packages if (version := installed_version(package)) is not None}


def now() -> str:
    """Return the time in ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
