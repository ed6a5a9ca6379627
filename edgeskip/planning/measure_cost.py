"""The cost of a plan for `edgeskip plan`: measured if the model and torch are here, else why it was not."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.core.plan_cost import PlanCost, SpeedPrediction, plan_digest, quality_line, speed_line
from edgeskip.core.user_errors import explain

if TYPE_CHECKING:
    from edgeskip.core.plan import Plan
    from edgeskip.planning.search.costs import DeviceCostModel
    from edgeskip.profiles.schema import Profile


@dataclass(frozen=True)
class MeasuredCost:
    """The `cost` of a plan; `missing` is the reason if its quality is not in it."""

    cost: PlanCost
    missing: str | None

    @property
    def kept(self) -> PlanCost | None:
        """What the profile keeps; None if nothing is known."""
        return self.cost if self.cost.plan or self.cost.speedup else None

    @property
    def lines(self) -> list[str]:
        """For people: what is lost, what is gained."""
        found = self.cost.plan
        quality = (
            f"not measured ({self.missing}): edgeskip export measures it" if found is None else quality_line(found)
        )
        speed = [] if self.cost.speedup is None else [speed_line(self.cost.speedup)]
        return [f"cost against the dense model: {quality}", *speed]


def measure_cost(
    profile: Profile,
    path: Path,
    plan: Plan,
    *,
    model: str | None = None,
    device: DeviceCostModel | None = None,
    measure: bool = True,
) -> MeasuredCost:
    """Return the cost of `plan`, which the profile at `path` resolves to; nothing is downloaded for it.

    Args:
        profile: with the plan's record.
        path: Where the profile was read, which its model may be relative to.
        plan: with at least one skip.
        model: in place of the model that the profile names.
        device: times to predict the speed-up from; by default the weights' sizes.
        measure: False for the prediction alone.
    """
    from edgeskip.models.profile_source import is_at_hand

    digest = plan_digest(profile.model.fingerprint, plan)
    speedup = None
    if device is not None:
        prefill, decode = device.speedups(plan.skipped)
        speedup = SpeedPrediction(prefill=prefill, decode=decode, basis=f"{device.name}, context {device.context}")
    missing = None
    if not measure:
        missing = "--no-cost"
    elif lacking := [name for name in ("torch", "transformers") if find_spec(name) is None]:
        missing = f"{' and '.join(lacking)} not installed"
    elif not is_at_hand(profile, path, model):
        missing = f"the model {model or profile.model.source} is not on this machine"
    if missing is not None:
        return MeasuredCost(PlanCost(digest=digest, speedup=speedup), missing)
    try:
        return _measured(profile, path, plan, model, PlanCost(digest=digest, speedup=speedup))
    except Exception as error:  # too little memory, or a torch that does not start, must not prevent the plan itself
        line = explain(error)
        if line is None:
            raise
        return MeasuredCost(PlanCost(digest=digest, speedup=speedup), line)


def _measured(profile: Profile, path: Path, plan: Plan, model: str | None, cost: PlanCost) -> MeasuredCost:
    from edgeskip.models.profile_source import check_weights, source_of
    from edgeskip.planning.dense_cost import dense_source, measure_plan, predict_speedup

    source = source_of(profile, path, model)
    check_weights(source, profile)
    cost = cost.model_copy(update={"speedup": cost.speedup or predict_speedup(source, plan)})
    dense = dense_source(profile, source, plan, planning=True)
    if dense is None:
        return MeasuredCost(cost, "the model before healing is not known")
    found = measure_plan(source, plan, dense)
    missing = None if found else "the model's context, tokenizer or numbers do not allow it"
    return MeasuredCost(cost.model_copy(update={"plan": found}), missing)
