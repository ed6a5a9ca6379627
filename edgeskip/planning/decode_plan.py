"""The plan of the decode phase if it cannot be chosen per request: the profile's plan plus the FFNs of `decode_skip`.
Frozen data in, frozen data out."""

from __future__ import annotations

from dataclasses import replace

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Plan, Skip
from edgeskip.core.sublayers import Sublayer, parse_sublayer
from edgeskip.profiles.schema import Profile


def decode_plan(profile: Profile, plan: Plan) -> Plan:
    """Return the profile's plan with the FFNs of `decode_skip` skipped too.

    Their scale is the one measured with the plan, else the one calibrated while decoding (on prompts if decoding was
    not calibrated), without a bias: biases are means over text, and decoding's are known less well. If the plan has no
    compensation, they have none either, unless it was measured so.

    Args:
        profile: The profile.
        plan: Its plan, resolved (`planner.resolve`).

    Raises:
        EdgeSkipError: If the profile names no FFN that its plan keeps.
    """
    added = decode_skipped(profile)
    if not added:
        raise EdgeSkipError(
            "the profile's plan skips no further FFN while decoding (decode_skip is empty): plan with a decode set, or "
            "export without --online"
        )
    record = profile.plan
    assert record is not None  # it names what is skipped
    if record.decode_scales is not None:
        scales = dict(zip(record.decode_skip, record.decode_scales, strict=True))
        skips = [Skip(s, scales[str(s)]) for s in added]
    elif plan.skips and plan.compensation == "none":
        skips = [Skip(s) for s in added]
    else:
        skips = [Skip(s, _scale(profile, s)) for s in added]
    return replace(
        plan,
        skips=tuple(sorted((*plan.skips, *skips), key=lambda skip: skip.sublayer)),
        compensation=plan.compensation if plan.skips else "scale",
    )


def decode_skipped(profile: Profile) -> list[Sublayer]:
    """Return the FFNs that are skipped only while decoding, in execution order."""
    if profile.plan is None:
        return []
    num_blocks = profile.model.num_blocks
    names = set(profile.plan.decode_skip) - set(profile.plan.skip)
    return sorted(parse_sublayer(name, num_blocks) for name in names)


def decode_profile(profile: Profile) -> Profile:
    """Return the profile with a plan that names what `decode_plan` skips, as a file of that plan records it.

    Its fitted scales are gone, so it cannot be resolved.
    """
    if profile.plan is None:
        return profile
    skip = sorted({parse_sublayer(name, profile.model.num_blocks) for name in profile.plan.skip}) + decode_skipped(
        profile
    )
    record = profile.plan.model_copy(
        update={
            "skip": [str(sublayer) for sublayer in sorted(skip)],
            "compensation": profile.plan.compensation if profile.plan.skip else "scale",
            "scales": None,
            "decode_skip": [],
            "decode_scales": None,
        }
    )
    return profile.model_copy(update={"plan": record})


def _scale(profile: Profile, sublayer: Sublayer) -> float:
    statistics = profile.statistics(sublayer)
    return (statistics.decode or statistics.prefill).scale
