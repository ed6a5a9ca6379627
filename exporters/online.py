"""What `--online` adds to an export: the record of its gates, and the check that they do what torch does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeskip.artifacts.manifest import OnlineRecord
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Plan, Skip
from edgeskip.core.sublayers import parse_sublayer
from edgeskip.exporters.verify import Bound, Measured, verify

if TYPE_CHECKING:
    from pathlib import Path

    from edgeskip.core.sublayers import Sublayer
    from edgeskip.exporters.options import OnlineRequest
    from edgeskip.models.source import ModelSource
    from edgeskip.profiles.schema import PhaseStatistics, Profile

WINDOW = 20  # decoded tokens that are watched where neither the user nor the profile says how many
# A gate costs a decode step some microseconds, open too, and an FFN that never gets as similar as β needs none. Over 16
# prompts × 28 FFNs of SmolLM2 a request's own mean (P 20) was 0.005 off calibration's (median), 0.013 at the 90th
# percentile. A gate around each of 30 FFNs makes an int4 step 5 to 8 % longer, so a third of them gets one at most.
MARGIN = 0.01
SHARE, FEW = 3, 8  # but FEW at least: of a small model's all


def online_record(request: OnlineRequest, profile: Profile, plan: Plan) -> OnlineRecord:
    """P, β and the gates: of the FFNs that `plan` keeps, the likeliest to get as similar as β, and the decode set.

    EdgeSkipError where no β is known or there is no such FFN.
    """
    record = profile.plan
    threshold = request.threshold
    if threshold is None:
        threshold = record.beta if record else None
    if threshold is None:
        raise EdgeSkipError("--online needs a threshold and the profile's plan has none: add --beta, e.g. --beta 0.97")
    ffns = [sublayer for sublayer in plan.kept if sublayer.kind == "ffn"]
    if not ffns:
        raise EdgeSkipError("--online has nothing to skip: the profile's plan leaves out every FFN already")
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
    """The FFNs that have a gate, in execution order; none without a record."""
    return tuple(parse_sublayer(name, num_blocks) for name in record.ffns) if record else ()


def decoding_statistics(profile: Profile, sublayer: Sublayer) -> PhaseStatistics:
    """What calibration expects of a sublayer while decoding: the prompt's where it did not decode."""
    found = profile.statistics(sublayer)
    return found.decode or found.prefill


def window_of(request: OnlineRequest, profile: Profile) -> int:
    """P: as asked for, as the profile's plan says, or 20."""
    return request.window or (profile.plan.window if profile.plan else None) or WINDOW


def check_gates(
    source: ModelSource,
    profile: Profile,
    plan: Plan,
    record: OnlineRecord,
    target: Path,
    *,
    bound: Bound,
    frugal: bool,
) -> Measured:
    """The artifact with half of its gates shut, scales as calibrated. Oracle: torch, what they leave out by hooks too.

    The half that changes the stream least: what a request would leave out, so the bound means what it means elsewhere.
    """
    statistics = {ffn: decoding_statistics(profile, ffn) for ffn in gated_ffns(record, plan.num_blocks)}
    likeliest = sorted(statistics, key=lambda ffn: statistics[ffn].similarity, reverse=True)
    shut = [Skip(ffn, statistics[ffn].scale) for ffn in likeliest[: (len(likeliest) + 1) // 2]]
    under = replace(plan, skips=tuple(sorted((*plan.skips, *shut), key=lambda skip: skip.sublayer)))
    return verify(source, under, target, bound=bound, frugal=frugal, gates=shut)
