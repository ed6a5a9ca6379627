"""Which sublayers to skip: rankings over a profile's statistics, and the plan that follows from a choice."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Sequence
from numbers import Integral
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.bounds import MAX_TOTAL_SCALE
from edgeskip.core.errors import EdgeSkipError, shown
from edgeskip.core.plan import STATISTICAL, Compensation, Plan, Skip
from edgeskip.core.sublayers import Sublayer, parse_sublayer, sublayers_of
from edgeskip.profiles.schema import Method, PlanRecord, Profile
from edgeskip.profiles.vectors import Vectors

METHODS: tuple[Method, ...] = get_args(Method)


def num_skipped(alpha: float, num_blocks: int) -> int:
    """Return 2m of AdaSkip's m = M − M/α, rounded to the nearest whole sublayer (a half rounds up).

    m need not be whole: 2m counts sublayers, so α = 1.2 on 32 blocks (m = 5.33) skips 11 of 64.
    """
    if not (math.isfinite(alpha) and alpha >= 1):
        raise EdgeSkipError(f"α = {alpha} is not an acceleration: give an --alpha of at least 1 (1 = dense)")
    return math.floor(2 * (num_blocks - num_blocks / alpha) + 0.5)


def _count(number: object) -> int:
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise EdgeSkipError(f"--skip-sublayers must be a whole number, not {shown(number)}")
    return int(number)


def choose(
    profile: Profile,
    *,
    method: Method = "adaskip",
    compensation: Compensation = "affine",
    alpha: float | None = None,
    skip_sublayers: int | None = None,
    skip: Sequence[str] | None = None,
    seed: int = 0,
) -> PlanRecord:
    """Choose the sublayers to skip; exactly one of `alpha`, `skip_sublayers` and `skip` says how many or which.

    Methods: `adaskip` skips the sublayers of greatest prefill similarity, `least-similar` those of least (the AdaSkip
    paper's LeastSkip control). Its baselines skip without looking, one or two sublayers a block: `early-exit` the last
    ones; `skipdecode` the first ones, never block 0; `unified` whole blocks at a regular distance, never the first or
    last block; `random` any. A plan of no sublayers is `dense`; names given in `skip` are `explicit`.

    Raises:
        EdgeSkipError: If the request cannot be met.
    """
    num_blocks = profile.model.num_blocks
    if compensation not in STATISTICAL:
        raise EdgeSkipError(f"the compensation {compensation!r} is fitted to a plan: edgeskip.planning.search fits it")
    if [alpha, skip_sublayers, skip].count(None) != 2:
        raise EdgeSkipError("choose what to skip with exactly one of --alpha, --skip-sublayers and --skip")
    if skip is not None:
        chosen = sorted({parse_sublayer(name, num_blocks) for name in skip})
        method = "explicit"
    else:
        count = num_skipped(alpha, num_blocks) if alpha is not None else _count(skip_sublayers)
        chosen = sorted(_pick(profile, method, count, seed))
    if len(chosen) >= 2 * num_blocks:
        raise EdgeSkipError(f"the plan skips all {2 * num_blocks} sublayers: keep at least one")
    similarities = [profile.statistics(sublayer).prefill.similarity for sublayer in chosen]
    return PlanRecord(
        method=method if chosen else "dense",
        compensation=compensation if chosen else "none",
        skip=[str(sublayer) for sublayer in chosen],
        alpha=alpha,
        beta=min(similarities, default=None),
        seed=seed if method == "random" and chosen else None,
    )


def resolve(profile: Profile, vectors: Vectors | None) -> Plan:
    """Return the profile's plan with the scale and bias of every skip; dense if the profile has no plan.

    Affine biases are bias_share·(mean_out − s·mean_in) of the prefill phase, computed in float64, rounded to float32.

    Args:
        profile: The profile.
        vectors: The arrays beside it; needed only if the compensation is affine or linear.

    Raises:
        EdgeSkipError: If the vectors are missing, or the plan's scales leave what float32 can hold.
    """
    plan = _resolved(profile, vectors)
    _check_scale(plan)
    return plan


def _check_scale(plan: Plan) -> None:
    """Raise EdgeSkipError if the plan's scales together leave what float32 can hold: weights are divided by them."""
    total = 1.0
    for skip in plan.skips:
        total *= skip.scale
        if not 1 / MAX_TOTAL_SCALE <= total <= MAX_TOTAL_SCALE:
            raise EdgeSkipError(
                f"the plan's scales up to {skip.sublayer} multiply to {total:.3g}: no model is measured so, calibrate "
                "again"
            )


def _resolved(profile: Profile, vectors: Vectors | None) -> Plan:
    num_blocks = profile.model.num_blocks
    if profile.plan is None:
        return Plan(num_blocks)
    compensation = profile.plan.compensation
    if profile.plan.scales is not None:
        if vectors is None and compensation in ("affine", "linear"):
            raise EdgeSkipError(f"a fitted {compensation} plan needs the vectors file beside the profile: plan again")
        maps = None if vectors is None else vectors.plan_map
        return fitted_plan(num_blocks, profile.plan, None if vectors is None else vectors.plan_bias, maps)
    skips = (_skip(profile, vectors, sublayer, compensation) for sublayer in skipped_of(profile))
    return Plan(num_blocks, tuple(skips), compensation)


def fitted_plan(
    num_blocks: int,
    record: PlanRecord,
    biases: NDArray[np.float32] | None,
    maps: NDArray[np.floating[Any]] | None,
) -> Plan:
    """Return the plan of a record with fitted scales.

    Args:
        num_blocks: Number of the model's blocks.
        record: The plan's record.
        biases: Float32 [skips, d] in the record's order; None if it has none.
        maps: [skips, d, d] in the record's order; None if it has none.
    """
    order = [parse_sublayer(name, num_blocks) for name in record.skip]
    sources = sources_of(order, num_blocks)
    skips = []
    for row, (sublayer, scale) in enumerate(zip(order, record.scales or [], strict=True)):
        source = sources[sublayer] if maps is not None else None
        fitted_map = maps[row].astype(np.float32) if maps is not None and source is not None else None
        skips.append(Skip(sublayer, scale, None if biases is None else biases[row], fitted_map, source))
    return Plan(num_blocks, tuple(sorted(skips, key=lambda skip: skip.sublayer)), record.compensation)


def sources_of(skipped: Collection[Sublayer], num_blocks: int) -> dict[Sublayer, Sublayer | None]:
    """Return, for each skipped sublayer, the last one kept before it; None at the model's start."""
    found: dict[Sublayer, Sublayer | None] = {}
    last: Sublayer | None = None
    for sublayer in sublayers_of(num_blocks):
        if sublayer in skipped:
            found[sublayer] = last
        else:
            last = sublayer
    return found


def skipped_of(profile: Profile) -> list[Sublayer]:
    """Return what the profile's plan skips, each once and in execution order, however the plan lists them."""
    names = profile.plan.skip if profile.plan else []
    return sorted({parse_sublayer(name, profile.model.num_blocks) for name in names})


def _skip(profile: Profile, vectors: Vectors | None, sublayer: Sublayer, compensation: Compensation) -> Skip:
    statistics = profile.statistics(sublayer).prefill
    if compensation == "none":
        return Skip(sublayer)
    if compensation == "scale":
        return Skip(sublayer, statistics.scale)
    if vectors is None or "prefill" not in vectors.mean_in:
        raise EdgeSkipError("affine compensation needs the vectors file beside the profile: calibrate again")
    mean_in = vectors.mean_in["prefill"][sublayer.index].astype(np.float64)
    mean_out = vectors.mean_out["prefill"][sublayer.index].astype(np.float64)
    share = 1.0 if statistics.bias_share is None else statistics.bias_share
    bias = share * (mean_out - statistics.affine_scale * mean_in)
    return Skip(sublayer, statistics.affine_scale, bias.astype(np.float32))


def _pick(profile: Profile, method: Method, count: int, seed: int) -> list[Sublayer]:
    """Return `count` sublayers chosen by `method`, in any order."""
    num_blocks = profile.model.num_blocks
    every = sublayers_of(num_blocks)
    if not 0 <= count < len(every):
        raise EdgeSkipError(f"cannot skip {count} of {len(every)} sublayers: skip 0 … {len(every) - 1}")

    def similarity(sublayer: Sublayer) -> float:
        return profile.statistics(sublayer).prefill.similarity

    # Sorting is stable, so equally similar sublayers are taken in execution order.
    picks: dict[Method, Callable[[], Sequence[Sublayer]]] = {
        "adaskip": lambda: sorted(every, key=similarity, reverse=True)[:count],
        "least-similar": lambda: sorted(every, key=similarity)[:count],
        "early-exit": lambda: every[len(every) - count :],
        "skipdecode": lambda: every[2 : 2 + count],
        "unified": lambda: _periodic(num_blocks, count),
        "random": lambda: random.Random(seed).sample(every, count),
        "dense": lambda: (),
    }
    if method == "budget":
        raise EdgeSkipError("the method 'budget' searches, which needs the model and text: edgeskip.planning.search")
    if method not in picks:
        raise EdgeSkipError(f"the method {method!r} cannot choose by number: name the sublayers with --skip")
    picked = list(picks[method]())
    if len(picked) != count:
        raise EdgeSkipError(f"{method} can skip at most {len(picked)} sublayers of this model, not {count}")
    return picked


def _periodic(num_blocks: int, count: int) -> list[Sublayer]:
    """Return whole blocks spread evenly between the first and the last; an odd one out skips attn only."""
    middle = max(num_blocks - 2, 0)
    wanted = min((count + 1) // 2, middle)
    blocks = [1 + math.floor((i + 0.5) * middle / wanted) for i in range(wanted)]
    return [sublayer for sublayer in sublayers_of(num_blocks) if sublayer.block in blocks][:count]
