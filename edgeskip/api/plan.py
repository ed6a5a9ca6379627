"""`edgeskip.plan`: choose the sublayers to skip and return the profile with that plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeskip.api.argument_names import names_arguments
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.lists import parse_names
from edgeskip.core.locks import claim
from edgeskip.core.plan import COMPENSATIONS, PLAN_METHODS
from edgeskip.core.progress import Progress, ProgressEvent, reporting_to, silent
from edgeskip.profiles.output import refuse_output
from edgeskip.profiles.schema import Profile, read_adapter

if TYPE_CHECKING:
    from edgeskip.core.plan import Compensation, Plan, PlanMethod
    from edgeskip.planning.budget import SearchOptions
    from edgeskip.planning.measure_cost import MeasuredCost
    from edgeskip.planning.search.decode_set import DecodeSet
    from edgeskip.planning.search.search import FittedPlan


@dataclass(frozen=True)
class PlanResult:
    """A profile with a new plan, and what is known about it beyond that."""

    profile: Profile
    plan: Plan
    """The plan with the scale, bias and map of every skip."""
    cost: MeasuredCost | None
    """Against the dense model; None for a dense plan."""
    fitted: FittedPlan | None
    """How the compensation was fitted; None if it follows from the statistics."""
    decode: DecodeSet | None
    """What decoding may leave out beyond the plan; None if it was not looked for."""


@names_arguments
def plan(
    profile: Profile | str | Path,
    *,
    skip_sublayers: int | None = None,
    alpha: float | None = None,
    skip: str | Sequence[str] | None = None,
    method: PlanMethod = "adaskip",
    compensation: Compensation | None = None,
    fit: bool = False,
    max_kl: float | None = None,
    max_ppl_increase: float | None = None,
    min_speedup: float | None = None,
    point: int | None = None,
    objective: Literal["kl", "perplexity"] | None = None,
    max_skips: int | None = None,
    search_kl: float | None = None,
    search: bool = False,
    decode_set: bool = True,
    corpus: str | Path | Sequence[str | Path] = (),
    field: str | None = None,
    tokens: int | None = None,
    window_tokens: int | None = None,
    device_profile: str | Path | None = None,
    context: int | None = None,
    model: str | Path | None = None,
    device: str | None = None,
    seed: int | None = None,
    measure_cost: bool = True,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Profile:
    """Choose the sublayers to skip: by their number, an acceleration ratio, their names, or a budget.

    Exactly one of `skip_sublayers`, `alpha` and `skip` says how much or what to skip. With `method="budget"` a search
    finds the plans that lose least (they stay in the profile, as `front`), and exactly one of `max_kl`,
    `max_ppl_increase`, `min_speedup`, `skip_sublayers` and `point` chooses among them; that needs the model and torch.

    Args:
        profile: What `calibrate` returned, the path of a profile, or the name of a preset.
        skip_sublayers: Number of sublayers to skip; 0 = dense.
        alpha: Acceleration ratio α: skip 2m sublayers, m = M − M/α, of M blocks.
        skip: Names of the sublayers, e.g. `["attn.25", "ffn.3"]` or `"attn.25,ffn.3"`.
        method: `adaskip` (the most similar), `budget`, or one to compare with.
        compensation: What replaces a skipped sublayer: `none`, `scale` (x·s), `affine` (x·s + b) or `linear`
            (x + T·u + b, u the update before it). None = affine; linear with a budget.
        fit: Fit the compensation to this plan, on the stream that its skips leave.
        max_kl: budget: the fastest plan with KL(dense ‖ skipped) up to this, nats per token.
        max_ppl_increase: budget: the fastest plan with a perplexity higher by up to this share, a standard error to
            spare; 0.1 = 10 %.
        min_speedup: budget: the plan that loses least and decodes this many times as fast.
        point: budget: this point of the front, counted from 1.
        objective: budget: what the search keeps low. None = kl.
        max_skips: budget: most sublayers that the search skips.
        search_kl: budget: KL at which the search ends, nats per token. None = 1.
        search: budget: search again although the profile has a front.
        decode_set: budget: also choose FFNs that decoding may leave out.
        corpus: budget, fit: text or `.jsonl` files; none = a text that ships with EdgeSkip.
        field: Field of `.jsonl` records that holds the text.
        tokens: budget, fit: tokens to fit to. None = 8192; 3072 of the text that ships.
        window_tokens: budget, fit: tokens per window. None = 1024; 256 for the text that ships.
        device_profile: What sublayers cost where the model is to run (`edgeskip profile-device`); the speed-up is
            predicted from it.
        context: Tokens in the KV cache that the device profile's times are for. None = 512.
        model: Where the model is, if not where the profile says.
        device: budget, fit: PyTorch device. None = cpu.
        seed: Of the method `random`; budget, fit: draws the windows. None = 0.
        measure_cost: Measure what the plan loses against the dense model, if torch and the model are here; nothing is
            downloaded for it.
        output: Profile to write; None = none, the result stays in memory until it is saved.
        overwrite: Replace a profile at `output`.
        progress: Gets the stages of a search and the measurement of the cost.

    Returns:
        Another profile, with the plan in `plan`; the one given is as it was.

    Raises:
        EdgeSkipError: If arguments contradict each other or have no effect, no plan meets the budget, or `output`
            cannot be written.

    Example:
        >>> planned = edgeskip.plan("profile.json", skip_sublayers=2, measure_cost=False)
        >>> len(planned.plan.skip), planned.plan.compensation
        (2, 'affine')
        >>> edgeskip.plan(planned, skip=["ffn.1"], compensation="scale", measure_cost=False).plan.skip
        ['ffn.1']
    """
    texts = (corpus,) if isinstance(corpus, str | Path) else tuple(corpus)
    options = PlanOptions(
        skip_sublayers=skip_sublayers, alpha=alpha,
        skip=parse_names(skip, "--skip") if isinstance(skip, str) else skip,
        method=method, compensation=compensation, fit=fit, max_kl=max_kl, max_ppl_increase=max_ppl_increase,
        min_speedup=min_speedup, point=point, objective=objective, max_skips=max_skips, search_kl=search_kl,
        search=search, decode_set=decode_set, corpus=tuple(map(str, texts)), field=field, tokens=tokens,
        window_tokens=window_tokens, device_profile=None if device_profile is None else Path(device_profile),
        context=context, model=None if model is None else str(model), device=device, seed=seed,
        measure_cost=measure_cost,
    )  # fmt: skip
    target = None if output is None else Path(output).expanduser()
    return plan_with_details(profile, options, output=target, overwrite=overwrite, progress=progress).profile


@dataclass(frozen=True)
class PlanOptions:
    """What a plan shall be; every field is an argument of `plan`."""

    skip_sublayers: int | None = None
    alpha: float | None = None
    skip: Sequence[str] | None = None
    method: PlanMethod = "adaskip"
    compensation: Compensation | None = None
    fit: bool = False
    max_kl: float | None = None
    max_ppl_increase: float | None = None
    min_speedup: float | None = None
    point: int | None = None
    objective: Literal["kl", "perplexity"] | None = None
    max_skips: int | None = None
    search_kl: float | None = None
    search: bool = False
    decode_set: bool = True
    corpus: tuple[str, ...] = ()
    field: str | None = None
    tokens: int | None = None
    window_tokens: int | None = None
    device_profile: Path | None = None
    context: int | None = None
    model: str | None = None
    device: str | None = None
    seed: int | None = None
    measure_cost: bool = True

    def __post_init__(self) -> None:
        if self.method not in PLAN_METHODS:
            raise EdgeSkipError(f"--method {self.method} is unknown; choose from {', '.join(PLAN_METHODS)}")
        if self.kind not in COMPENSATIONS:
            raise EdgeSkipError(f"--compensation {self.kind} is unknown; choose from {', '.join(COMPENSATIONS)}")
        of_budget = ("max_kl", "max_ppl_increase", "min_speedup", "point", "max_skips", "objective", "search_kl")
        of_fits = ("corpus", "field", "tokens", "window_tokens", "device")
        if not self.searches:
            switches = {"search": self.search or None, "no_decode_set": None if self.decode_set else True}
            self._refuse(of_budget, "without --method budget; add it or leave this out", switches)
        else:
            self._refuse(
                ("alpha", "skip"), "with --method budget, which chooses; leave it out", {"fit": self.fit or None}
            )
        if not self.searches and not self.fits:
            self._refuse(of_fits, "without --method budget or --fit; add one or leave this out")

    @property
    def searches(self) -> bool:
        """Whether a budget chooses."""
        return self.method == "budget"

    @property
    def kind(self) -> Compensation:
        """The compensation, with its default."""
        return self.compensation or ("linear" if self.searches else "affine")

    @property
    def fits(self) -> bool:
        """Whether the compensation is fitted to a plan that was chosen without a search."""
        return self.fit or self.kind == "linear"

    def request(self, log: Path | None) -> SearchOptions:
        """Return what a search or a fit is asked for; `log` is where a search keeps what it measures."""
        from edgeskip.planning.budget import SearchOptions

        return SearchOptions(
            corpus=self.corpus, field=self.field, model=self.model,
            compensation=self.compensation if self.searches else self.kind, objective=self.objective,
            tokens=self.tokens, window_tokens=self.window_tokens, max_skips=self.max_skips, search_kl=self.search_kl,
            search=self.search, device_profile=self.device_profile, context=self.context, decode_set=self.decode_set,
            device=self.device, seed=self.seed, log=log,
        )  # fmt: skip

    def _refuse(self, names: Sequence[str], why: str, more: Mapping[str, object] | None = None) -> None:
        given = {name: getattr(self, name) for name in names} | dict(more or {})
        for name, value in given.items():
            if value is not None and value != ():
                raise EdgeSkipError(f"--{name.replace('_', '-')} has no effect {why}")


def plan_with_details(
    profile: Profile | str | Path,
    options: PlanOptions,
    *,
    output: Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> PlanResult:
    """Do what `plan` does, and return what is known about the plan as well."""
    from edgeskip.profiles.presets import ready_profiles

    read = profile if isinstance(profile, Profile) else Profile.load(profile)
    if output is None:
        with reporting_to(progress):
            return _planned(read, options, read.working_path(), None, progress)
    if any(output.resolve() == preset.resolve() for preset in ready_profiles().values()):
        raise EdgeSkipError(
            f"{output.stem} ships with EdgeSkip and is not changed; write a profile of your own with -o"
        )
    refuse_output(output, overwrite=overwrite)
    with claim(output), reporting_to(progress):
        refuse_output(output, overwrite=overwrite)  # whoever had claimed it may have made it
        result = _planned(read, options, output, output.with_suffix(""), progress)
        return replace(result, profile=result.profile.save(output, overwrite=overwrite))


def _planned(read: Profile, options: PlanOptions, target: Path, log: Path | None, progress: Progress) -> PlanResult:
    from edgeskip.planning.budget import device_cost_model, plan_by_budget, plan_fitted
    from edgeskip.planning.measure_cost import measure_cost
    from edgeskip.planning.planner import choose, resolve
    from edgeskip.planning.search.pareto import Budget
    from edgeskip.profiles.vectors import read_vectors, with_vectors

    path, healed_from = read.working_path(), read.plan.healed_from if read.plan else None
    vectors, adapter = read_vectors(read, path), read_adapter(read, path)
    request = options.request(log)
    times = device_cost_model(read, request)
    fitted, decode = None, None

    if options.searches:
        budget = Budget(
            options.max_kl, options.max_ppl_increase, options.min_speedup, options.skip_sublayers, options.point
        )
        read, fitted, decode = plan_by_budget(read, path, budget, request, progress)
    else:
        record = choose(
            read,
            method=options.method,
            compensation="affine" if options.fits else options.kind,
            alpha=options.alpha,
            skip_sublayers=options.skip_sublayers,
            skip=options.skip,
            seed=options.seed or 0,
        )
        if options.fits and record.skip:
            record, fitted = plan_fitted(read, path, record, request, progress)
        read = read.model_copy(update={"plan": record})
    vectors = replace(
        vectors, plan_bias=fitted.biases if fitted else None, plan_map=fitted.maps if fitted else None
    )  # fmt: skip
    resolved, cost = resolve(read, vectors), None
    if resolved.skips:
        progress(ProgressEvent("cost against the dense model"))
        cost = measure_cost(
            read, path, resolved, model=options.model, device=times, measure=options.measure_cost
        )  # fmt: skip
        assert read.plan is not None
        record = read.plan.model_copy(update={"cost": cost.kept, "healed_from": healed_from})
        read = read.model_copy(update={"plan": record})
    planned = with_vectors(read.moved(path, target), vectors, path=target, adapter=adapter)
    return PlanResult(planned, resolved, cost, fitted, decode)
