"""Planning that needs the model: search for a front, pick from it within a budget, fit a compensation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.notes import note
from edgeskip.core.progress import Progress, ProgressEvent
from edgeskip.core.sublayers import parse_sublayer
from edgeskip.planning.search.kept_front import check_settings, points_within, resolve_options
from edgeskip.planning.search.pareto import Budget, pick_point
from edgeskip.profiles.schema import ParetoFront, PlanRecord, Profile

if TYPE_CHECKING:
    from edgeskip.models.source import ModelSource
    from edgeskip.planning.search.costs import CostModel, DeviceCostModel
    from edgeskip.planning.search.decode_set import DecodeSet
    from edgeskip.planning.search.policy import SearchPolicy
    from edgeskip.planning.search.search import FittedPlan, Searcher


@dataclass(frozen=True)
class SearchOptions:
    """What a user can choose about a search or a fit; None = the default, or as the profile's front was searched.

    Attributes:
        corpus: Text files; () = the text that ships.
        field: Field of `.jsonl` records that holds the text.
        model: The model, if not where the profile says.
        compensation: What replaces a skipped sublayer.
        objective: What a search keeps low: `kl` or `perplexity`.
        tokens: Tokens to fit to; 3/4 as many are reported on, 3/8 compared on.
        window_tokens: Tokens per window.
        max_skips: Most sublayers that a search skips.
        search_kl: KL at which a search ends, nats per token.
        search: Whether to search although the profile has a front.
        device_profile: A device profile to predict speed-ups from.
        context: Tokens in the KV cache that its times are for.
        decode_set: Whether to choose FFNs that decoding may leave out as well.
        device: PyTorch device.
        seed: Draws the windows.
        log: Where a search writes what it measures, without the end of the file's name; None = nowhere.
    """

    corpus: tuple[str, ...]
    field: str | None
    model: str | None
    compensation: str | None
    objective: str | None
    tokens: int | None
    window_tokens: int | None
    max_skips: int | None
    search_kl: float | None
    search: bool
    device_profile: Path | None
    context: int | None
    decode_set: bool
    device: str | None
    seed: int | None
    log: Path | None

    def policy(self, max_positions: int) -> SearchPolicy:
        """Return the policy for a model of so many positions.

        Attentions are worth more in long windows: a plan of SmolLM2 that costs 10 % in windows of 512 tokens costs
        17 % in windows of 1,024.
        """
        from edgeskip.planning.search.policy import SearchPolicy

        # The shipped text has some 7,000 tokens.
        tokens, window = (8192, 1024) if self.corpus else (3072, 256)
        tokens = tokens if self.tokens is None else self.tokens
        window = min(window, max_positions) if self.window_tokens is None else self.window_tokens
        return SearchPolicy(
            objective=self.objective or "kl",  # type: ignore[arg-type]
            compensation=self.compensation or "linear",  # type: ignore[arg-type]
            fit_tokens=tokens,
            search_tokens=max(tokens * 3 // 8, 2 * window),
            report_tokens=max(tokens * 3 // 4, 2 * window),
            context=window,
            max_skips=self.max_skips,
            max_kl=1.0 if self.search_kl is None else self.search_kl,
            seed=self.seed or 0,
            device=self.device or "cpu",
        )


def plan_by_budget(
    profile: Profile, path: Path, budget: Budget, request: SearchOptions, progress: Progress
) -> tuple[Profile, FittedPlan, DecodeSet | None]:
    """Return the profile with a front and with the fitted plan that `budget` buys, and that plan and its decode set.

    The front is the profile's own unless `request` wants another.

    Decoding may lose as much on the model's own continuations as the budget allows on text (or as the plan loses on
    text, if the budget is not a KL): what that leaves room for is the decode set.

    Raises:
        EdgeSkipError: If the front has no such point, or the text or settings are not those of the front.
    """
    front = None if request.search else profile.front
    if front is not None:
        kept = resolve_options(
            front,
            tokens=request.tokens,
            window_tokens=request.window_tokens,
            seed=request.seed,
            compensation=request.compensation,
        )
        request = replace(request, **kept)
    policy = request.policy(max_positions=1024)  # refuses what cannot be, before anything is read
    if front is not None:
        front = _with_device_times(front, profile, request)
        allowed = points_within(front, max_skips=request.max_skips, search_kl=request.search_kl)
        number = pick_point(front, budget, allowed)  # before the model is loaded
    source = _source(profile, path, request)
    searcher = _searcher(source, request)
    if front is None:
        front = searcher.search(_costs(profile, source, request), request.log, progress)
        if not front.points:
            raise EdgeSkipError(f"every skip costs more than {policy.max_kl:g} nats per token: raise --search-kl")
        number = pick_point(front, budget)
    else:
        check_settings(front, searcher.settings)
    point = front.points[number]
    num_blocks = profile.model.num_blocks
    fitted = searcher.fitted([parse_sublayer(name, num_blocks) for name in point.skip])
    record = PlanRecord(
        method="budget", compensation=front.compensation, skip=point.skip, scales=fitted.scales
    )  # fmt: skip
    chosen = None
    if request.decode_set:
        progress(ProgressEvent("decode set"))
        chosen = searcher.decode_set(fitted, fitted.quality.kl if budget.max_kl is None else budget.max_kl)
    if chosen is not None and chosen.skip:
        scales = dict(zip(chosen.skip, chosen.scales, strict=True))
        decode = {
            "beta": chosen.threshold,
            "window": chosen.window,
            "decode_skip": [str(sublayer) for sublayer in sorted(scales)],
            "decode_scales": [scales[sublayer] for sublayer in sorted(scales)],
        }
        record = record.model_copy(update=decode)
    return profile.model_copy(update={"front": front, "plan": record}), fitted, chosen


def plan_fitted(
    profile: Profile, path: Path, record: PlanRecord, request: SearchOptions, progress: Progress
) -> tuple[PlanRecord, FittedPlan]:
    """Return the plan of `record` with its compensation fitted on the stream that its skips leave."""
    progress(ProgressEvent("fitting"))
    searcher = _searcher(_source(profile, path, request), request)
    fitted = searcher.fitted([parse_sublayer(name, profile.model.num_blocks) for name in record.skip])
    changed = {"compensation": request.compensation or "linear", "scales": fitted.scales}
    return record.model_copy(update=changed), fitted


def _source(profile: Profile, path: Path, request: SearchOptions) -> ModelSource:
    from edgeskip.models.profile_source import check_weights, source_of
    from edgeskip.runtime.engines.onnxruntime.attention_limits import head_size_problem

    if profile.model.adapter is not None and profile.plan is not None and profile.plan.skip:
        raise EdgeSkipError(
            f"{path.name} is healed for its plan, so the model with all sublayers is no longer a reference: plan the "
            "profile it was made from"
        )
    source = source_of(profile, path, request.model)
    check_weights(source, profile)
    if (problem := head_size_problem(source.decoder)) is not None:
        note(f"{problem}; export the plan with  --target gguf")
    return source


def _searcher(source: ModelSource, request: SearchOptions) -> Searcher:
    from edgeskip.calibration.corpus import corpus_named
    from edgeskip.planning.search.search import Searcher

    policy = request.policy(source.decoder.config.max_positions)
    return Searcher(source, corpus_named(request.corpus, request.field), policy)


def _costs(profile: Profile, source: ModelSource, request: SearchOptions) -> CostModel:
    from edgeskip.planning.search.costs import weight_cost_model

    return device_cost_model(profile, request) or weight_cost_model(source.decoder)


def device_cost_model(profile: Profile, request: SearchOptions) -> DeviceCostModel | None:
    """Return the times of the device profile that `request` names; None if it names none."""
    from edgeskip.planning.search.costs import DeviceCostModel

    if request.device_profile is None:
        if request.context is not None:
            raise EdgeSkipError(
                f"--context {request.context} has no effect without --device-profile; add it or leave --context out"
            )
        return None
    from edgeskip.profiles.device_profile import read_device_profile

    device = read_device_profile(request.device_profile)
    device.check_model(profile)
    return DeviceCostModel(device, 512 if request.context is None else request.context)


def _with_device_times(front: ParetoFront, profile: Profile, request: SearchOptions) -> ParetoFront:
    """Return the front with the times of the device that `request` names, if any.

    Raises:
        EdgeSkipError: For options of a search.
    """
    if request.objective not in (None, front.objective):
        raise EdgeSkipError(
            f"the profile's front was searched with --objective {front.objective}, not {request.objective}: leave it "
            "out, or add --search to search anew"
        )
    costs = device_cost_model(profile, request)
    if costs is None:
        return front
    points = []
    for point in front.points:
        skip = [parse_sublayer(name, profile.model.num_blocks) for name in point.skip]
        prefill, decode = costs.speedups(skip)
        points.append(point.model_copy(update={"prefill_speedup": prefill, "decode_speedup": decode}))
    return front.model_copy(update={"points": points, "device": costs.name, "context": costs.context})
