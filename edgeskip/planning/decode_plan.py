"""The plan of the decode phase where it cannot be chosen by request: the profile's plan and the FFNs of `decode_skip`
besides. Frozen data in, frozen data out."""

from __future__ import annotations

from dataclasses import replace

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Plan, Skip
from edgeskip.core.sublayers import Sublayer, parse_sublayer
from edgeskip.planning.planner import resolve
from edgeskip.profiles.schema import Profile
from edgeskip.profiles.vectors import Vectors


def decode_plan(profile: Profile, vectors: Vectors | None) -> Plan:
    """The profile's plan, resolved, with the FFNs of `decode_skip` skipped too.

    These are scaled as the planner measured it with the plan, else as decoding has it by the statistics (as the prompt,
    where decoding was not calibrated), without a bias: biases are means over text, and decoding's are known less well.
    A plan without compensation has none here either, unless it was measured so.
    EdgeSkipError where the profile names no FFN that its plan keeps.
    """
    plan = resolve(profile, vectors)
    added = decode_skipped(profile)
    if not added:
        raise EdgeSkipError(
            "the profile's plan skips no FFN besides while decoding (decode_skip is empty): plan with a decode set, or "
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
    """The FFNs that are skipped while decoding only, in execution order."""
    if profile.plan is None:
        return []
    num_blocks = profile.model.num_blocks
    names = set(profile.plan.decode_skip) - set(profile.plan.skip)
    return sorted(parse_sublayer(name, num_blocks) for name in names)


def decode_profile(profile: Profile) -> Profile:
    """The profile as one whose plan skips by name what `decode_plan` skips: what a file of that plan says of itself.

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
