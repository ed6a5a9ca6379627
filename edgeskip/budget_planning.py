"""What `edgeskip plan` does that needs the model: searching for a front, picking from it, fitting a compensation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.errors import EdgeSkipError
from edgeskip.profile import FrontRecord, PlanRecord, Profile
from edgeskip.search.front import Budget, pick
from edgeskip.sublayers import parse_sublayer

if TYPE_CHECKING:
    from edgeskip.exporters.families.source import ModelSource
    from edgeskip.search.costs import Costs
    from edgeskip.search.decode_set import DecodeSet
    from edgeskip.search.policy import SearchPolicy
    from edgeskip.search.search import FittedPlan, Progress, Searcher


@dataclass(frozen=True)
class PlanningRequest:
    """What the command line asks of a search or a fit; `log` is where a search writes what it measured, without the end
    of its name. `tokens` are fitted to, 3/4 as many reported on, 3/8 compared on; None = what the corpus is good for.
    """

    corpus: tuple[str, ...]
    field: str | None
    model: str | None
    compensation: str
    objective: str
    tokens: int | None
    window_tokens: int | None
    max_skips: int | None
    search_kl: float
    search: bool
    device_profile: Path | None
    context: int
    decode_set: bool
    device: str
    seed: int
    log: Path

    def policy(self, max_positions: int) -> SearchPolicy:
        """For a model of so many positions.

        Attentions are worth more in long windows: a plan of SmolLM2 that costs 10 % in windows of 512 tokens costs
        17 % in windows of 1,024.
        """
        from edgeskip.search.policy import SearchPolicy

        # The shipped text has some 7,000 tokens.
        tokens, window = (8192, 1024) if self.corpus else (3072, 256)
        tokens, window = self.tokens or tokens, self.window_tokens or min(window, max_positions)
        return SearchPolicy(
            objective=self.objective,  # type: ignore[arg-type]
            compensation=self.compensation,  # type: ignore[arg-type]
            fit_tokens=tokens,
            search_tokens=max(tokens * 3 // 8, 2 * window),
            report_tokens=max(tokens * 3 // 4, 2 * window),
            context=window,
            max_skips=self.max_skips,
            max_kl=self.search_kl,
            seed=self.seed,
            device=self.device,
        )


def plan_by_budget(
    profile: Profile, path: Path, budget: Budget, request: PlanningRequest, progress: Progress
) -> tuple[Profile, FittedPlan, DecodeSet | None]:
    """The profile with a front, the one it has unless `request` wants another, and the fitted plan that `budget` buys.

    Decoding may lose as much on the model's own continuations as the budget allows on text (or as the plan loses on
    text, where the budget is no KL): what that leaves room for is the decode set. EdgeSkipError where the front has no
    such point, and where the text or settings are not those of the front.
    """
    request.policy(max_positions=1024)  # refuses what cannot be, before anything is read
    front = None if request.search else profile.front
    if front is not None:
        number = pick(front, budget)  # before the model is loaded
    source = _source(profile, path, request)
    costs = _costs(profile, source, request)
    searcher = _searcher(source, request)
    if front is None:
        front = searcher.search(costs, request.log, progress)
        if not front.points:
            raise EdgeSkipError(f"every skip costs more than {request.search_kl:g} nats per token: raise --search-kl")
        number = pick(front, budget)
    else:
        _check_settings(front, searcher, costs, request)
    point = front.points[number]
    num_blocks = profile.model.num_blocks
    fitted = searcher.fitted([parse_sublayer(name, num_blocks) for name in point.skip])
    record = PlanRecord(
        method="budget", compensation=front.compensation, skip=point.skip, scales=fitted.scales
    )  # fmt: skip
    chosen = None
    if request.decode_set:
        progress("decode set", 0, None)
        chosen = searcher.decode_set(fitted, fitted.quality.kl if budget.max_kl is None else budget.max_kl)
    if chosen is not None and chosen.skip:
        names = [str(sublayer) for sublayer in sorted(chosen.skip)]
        decode = {"beta": chosen.threshold, "window": chosen.window, "decode_skip": names}
        record = record.model_copy(update=decode)
    return profile.model_copy(update={"front": front, "plan": record}), fitted, chosen


def plan_fitted(
    profile: Profile, path: Path, record: PlanRecord, request: PlanningRequest, progress: Progress
) -> tuple[PlanRecord, FittedPlan]:
    """The plan of `record` with its compensation fitted on the stream that its skips leave."""
    progress("fitting", 0, None)
    searcher = _searcher(_source(profile, path, request), request)
    fitted = searcher.fitted([parse_sublayer(name, profile.model.num_blocks) for name in record.skip])
    changed = {"compensation": request.compensation, "scales": fitted.scales}
    return record.model_copy(update=changed), fitted


def _source(profile: Profile, path: Path, request: PlanningRequest) -> ModelSource:
    from edgeskip.exporters.provenance import check_weights
    from edgeskip.profile_source import source_of

    source = source_of(profile, path, request.model)
    check_weights(source, profile)
    return source


def _searcher(source: ModelSource, request: PlanningRequest) -> Searcher:
    from edgeskip.calibration.corpus import corpus_named
    from edgeskip.search.search import Searcher

    policy = request.policy(source.decoder.config.max_positions)
    return Searcher(source, corpus_named(request.corpus, request.field), policy)


def _costs(profile: Profile, source: ModelSource, request: PlanningRequest) -> Costs:
    from edgeskip.search.costs import DeviceCosts, weight_costs

    if request.device_profile is None:
        return weight_costs(source.decoder)
    from edgeskip.device_profile import read_device_profile

    device = read_device_profile(request.device_profile)
    device.check_model(profile)
    return DeviceCosts(device, request.context)


def _check_settings(front: FrontRecord, searcher: Searcher, costs: Costs, request: PlanningRequest) -> None:
    """EdgeSkipError where a point of `front`, fitted again, would not be what the front says."""
    again = "give what it was searched with, or add --search"
    if request.device_profile is not None and costs.name != front.device:
        raise EdgeSkipError(f"the profile's front has times of {front.device}, not of {costs.name}: {again}")
    if request.objective != front.objective:
        raise EdgeSkipError(f"the profile's front was searched for {front.objective}: {again}")
    for name, value in searcher.settings.items():
        if front.settings.get(name) != value:
            raise EdgeSkipError(f"the profile's front was searched with another {name}: {again}")
