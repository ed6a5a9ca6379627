"""What `--online` adds to an export: which FFNs get a gate, from which similarity on, and how long to watch first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeskip.artifacts.manifest import OnlineRecord
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.sublayers import parse_sublayer

if TYPE_CHECKING:
    from edgeskip.core.plan import Plan
    from edgeskip.core.sublayers import Sublayer
    from edgeskip.exporters.options import OnlineRequest
    from edgeskip.profiles.schema import PhaseStatistics, Profile

WINDOW = 20  # decoded tokens that are watched if neither the user nor the profile sets a number
# A gate costs a decode step some microseconds, even open, and an FFN that never gets as similar as β needs none. Over
# 16 prompts × 28 FFNs of SmolLM2 a request's own mean (P 20) was 0.005 off calibration's (median), 0.013 at the 90th
# percentile. A gate around each of 30 FFNs makes an int4 step 5 to 8 % longer, so a third of them gets one at most.
MARGIN = 0.01
SHARE, FEW = 3, 8  # but FEW at least: of a small model's all


def online_record(request: OnlineRequest, profile: Profile, plan: Plan) -> OnlineRecord:
    """Return P, β and the gates: the decode set, and of the other FFNs kept those likeliest to get as similar as β.

    Raises:
        EdgeSkipError: If no β is known or there is no such FFN.
    """
    record = profile.plan
    threshold = request.threshold
    if threshold is None:
        threshold = record.beta if record else None
    if threshold is None:
        raise EdgeSkipError("--online needs a threshold and the profile's plan has none: add --beta, e.g. --beta 0.97")
    ffns = [sublayer for sublayer in plan.kept if sublayer.kind == "ffn"]
    if not ffns:
        raise EdgeSkipError("--online has nothing to skip: the profile's plan skips every FFN already")
    similarity = {ffn: decoding_statistics(profile, ffn).similarity for ffn in ffns}
    wanted = {parse_sublayer(name, plan.num_blocks) for name in (record.decode_skip if record else [])}
    near = sorted((ffn for ffn in ffns if similarity[ffn] >= threshold - MARGIN), key=lambda ffn: -similarity[ffn])
    gated = sorted({*(ffn for ffn in ffns if ffn in wanted), *near[: max(plan.num_blocks // SHARE, FEW)]})
    if not gated:
        nearest = max(ffns, key=similarity.__getitem__)
        raise EdgeSkipError(
            f"--online has nothing to skip: of the FFNs left {nearest} is the most similar, {similarity[nearest]:.4f}, "
            f"far below β = {threshold:g}: lower --beta"
        )
    return OnlineRecord(window=window_of(request, profile), threshold=threshold, ffns=[str(ffn) for ffn in gated])


def gated_ffns(record: OnlineRecord | None, num_blocks: int) -> tuple[Sublayer, ...]:
    """Return the FFNs that have a gate, in execution order; none without a record."""
    return tuple(parse_sublayer(name, num_blocks) for name in record.ffns) if record else ()


def decoding_statistics(profile: Profile, sublayer: Sublayer) -> PhaseStatistics:
    """Return what calibration measured of a sublayer while decoding; on prompts if it did not decode."""
    found = profile.statistics(sublayer)
    return found.decode or found.prefill


def window_of(request: OnlineRequest, profile: Profile) -> int:
    """Return P: the request's, else the plan's of the profile, else 20."""
    return request.window or (profile.plan.window if profile.plan else None) or WINDOW
