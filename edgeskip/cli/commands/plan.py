"""`edgeskip plan`: chooses the sublayers to skip and writes the plan into the profile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgeskip.core.plan import Plan
    from edgeskip.profiles.schema import Profile


def plan(
    profile: Annotated[str, typer.Argument(help="A profile (llama.json), or the name of one that ships.")],
    alpha: Annotated[
        float | None, typer.Option(help="Acceleration ratio α: skips 2m sublayers, m = M − M/α, M blocks.")
    ] = None,
    skip_sublayers: Annotated[int | None, typer.Option(help="Number of sublayers to skip; 0 = dense.")] = None,
    skip: Annotated[str | None, typer.Option(help="Sublayers to skip, by name: attn.25,ffn.3")] = None,
    method: Annotated[
        str,
        typer.Option(
            help="adaskip; budget: searches for what loses least; or to compare with: early-exit, skipdecode, "
            "unified, least-similar, random."
        ),
    ] = "adaskip",
    compensation: Annotated[
        str | None,
        typer.Option(
            help="What replaces a skipped sublayer: none, scale (x·s), affine (x·s + b), linear (x + T·u + b, u the "
            "update before it; fitted to the plan).  [default: affine; budget: linear]"
        ),
    ] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Fit the compensation to this plan, on the stream that its skips leave.")
    ] = False,
    max_kl: Annotated[
        float | None, typer.Option(help="budget: the fastest plan with KL(dense ‖ skipped) up to this, nats per token.")
    ] = None,
    max_ppl_increase: Annotated[
        str | None,
        typer.Option(
            help="budget: the fastest plan with a perplexity higher by up to this, a standard error to spare: 10%."
        ),
    ] = None,
    min_speedup: Annotated[
        float | None, typer.Option(help="budget: the plan that loses least and decodes this many times as fast.")
    ] = None,
    point: Annotated[int | None, typer.Option(help="budget: this point of the front, from 1.")] = None,
    device_profile: Annotated[
        Path | None,
        typer.Option(
            help="What sublayers cost where it is to run (edgeskip profile-device): the speed-up is predicted from it."
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(help="--device-profile: tokens in the KV cache that the times are of.", show_default="512"),
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(help="budget, --fit: text or .jsonl file, repeatable.  [default: text that ships with EdgeSkip]"),
    ] = None,
    field: Annotated[str | None, typer.Option(help="Field of .jsonl records that holds the text.")] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            help="budget, --fit: tokens to fit to; 3/4 as many are measured on.",
            show_default="8192; of the shipped text 3072",
        ),
    ] = None,
    window_tokens: Annotated[
        int | None,
        typer.Option(
            help="budget, --fit: tokens per window; more for long prompts.",
            show_default="1024; of the shipped text 256",
        ),
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="budget: what the search keeps low, kl or perplexity.", show_default="kl")
    ] = None,
    max_skips: Annotated[int | None, typer.Option(help="budget: sublayers that the search skips at most.")] = None,
    search_kl: Annotated[
        float | None, typer.Option(help="budget: KL at which the search ends, nats per token.", show_default="1")
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="budget: search anew though the profile has a front.")
    ] = False,
    decode_set: Annotated[
        bool, typer.Option(help="budget: choose FFNs besides that decoding may leave out, with P and β.")
    ] = True,
    plot: Annotated[Path | None, typer.Option(help="budget: draw the front into a .png, .svg or .pdf.")] = None,
    model: Annotated[str | None, typer.Option(help="The model, where it is not where the profile says.")] = None,
    device: Annotated[str | None, typer.Option(help="budget, --fit: PyTorch device.", show_default="cpu")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the method random; budget, --fit: draws the windows.", show_default="0")
    ] = None,
    cost: Annotated[
        bool,
        typer.Option(
            help="Measure what the plan costs against the dense model on text that ships, if torch and the model are "
            "here."
        ),
    ] = True,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the profile there instead of replacing it.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing profile at -o.")] = False,
) -> None:
    """Choose the sublayers to skip, by a number, a ratio, names or a budget, and write that into the profile.

    --method budget searches for a front of plans, which the profile keeps; a search that was cut short goes on.
    """
    from dataclasses import replace

    from edgeskip.cli.views.pareto import check_figure
    from edgeskip.core.errors import EdgeSkipError
    from edgeskip.core.locks import hold
    from edgeskip.core.plan import COMPENSATIONS
    from edgeskip.core.progress import progress_display
    from edgeskip.planning.budget import PlanningRequest, device_costs, plan_by_budget, plan_fitted
    from edgeskip.planning.measure_cost import measure_cost
    from edgeskip.planning.planner import METHODS, choose, resolve
    from edgeskip.planning.search.pareto import Budget, parse_share
    from edgeskip.profiles.output import refuse_output
    from edgeskip.profiles.presets import ready_profiles
    from edgeskip.profiles.schema import (
        locate_profile,
        model_at,
        read_adapter,
        read_profile,
        write_profile,
    )
    from edgeskip.profiles.vectors import pack_vectors, read_vectors

    if method not in METHODS:
        raise EdgeSkipError(f"--method {method} is unknown: choose one of {', '.join(METHODS)}")
    searching = method == "budget"
    kind = compensation or ("linear" if searching else "affine")
    if kind not in COMPENSATIONS:
        raise EdgeSkipError(f"--compensation {kind} is unknown: choose one of {', '.join(COMPENSATIONS)}")
    fitting = fit or kind == "linear"
    _refuse_idle(
        searching,
        fitting,
        budget={
            "--max-kl": max_kl, "--max-ppl-increase": max_ppl_increase, "--min-speedup": min_speedup,
            "--point": point, "--max-skips": max_skips, "--plot": plot,
            "--objective": objective, "--search-kl": search_kl, "--search": search or None,
            "--no-decode-set": None if decode_set else True,
        },
        fits={
            "--corpus": corpus, "--field": field, "--tokens": tokens, "--window-tokens": window_tokens,
            "--device": device,
        },
        named={"--alpha": alpha, "--skip": skip, "--fit": fit or None},
    )  # fmt: skip
    if plot is not None:
        check_figure(plot)
    path = locate_profile(profile)
    elsewhere = output is not None and output.resolve() != path.resolve()
    if not elsewhere and path in ready_profiles().values():
        raise EdgeSkipError(f"{profile} ships with EdgeSkip and is not changed: write a profile of your own with -o")
    if output is not None and elsewhere:
        refuse_output(output, overwrite=overwrite)
    target = output or path
    hold(target)
    if output is not None and elsewhere:
        refuse_output(output, overwrite=overwrite)  # whoever had claimed it may have made it
    read = read_profile(path)
    healed_from = read.plan.healed_from if read.plan else None
    vectors = read_vectors(read, path)
    request = PlanningRequest(
        corpus=tuple(corpus or ()), field=field, model=model, compensation=compensation if searching else kind,
        objective=objective,
        tokens=tokens, window_tokens=window_tokens,
        max_skips=max_skips, search_kl=search_kl, search=search, device_profile=device_profile, context=context,
        decode_set=decode_set, device=device, seed=seed, log=target.with_suffix(""),
    )  # fmt: skip
    device_times = device_costs(read, request)
    decode = None
    if searching:
        budget = Budget(
            max_kl, None if max_ppl_increase is None else parse_share(max_ppl_increase), min_speedup, skip_sublayers,
            point,
        )  # fmt: skip
        with progress_display() as shown:
            read, fitted, decode = plan_by_budget(read, path, budget, request, shown.update)
    else:
        record = choose(
            read,
            method=method,
            compensation="affine" if fitting else kind,
            alpha=alpha,
            skip_sublayers=skip_sublayers,
            skip=None if skip is None else [name for name in skip.split(",") if name.strip()],
            seed=seed or 0,
        )
        fitted = None
        if fitting and record.skip:
            with progress_display() as shown:
                record, fitted = plan_fitted(read, path, record, request, shown.update)
        read = read.model_copy(update={"plan": record})
    vectors = replace(
        vectors, plan_bias=fitted.biases if fitted else None, plan_map=fitted.maps if fitted else None
    )  # fmt: skip
    vectors_record, packed = pack_vectors(vectors, target)
    moved = {"vectors": vectors_record, "model": model_at(read.model, target)}
    planned = read.model_copy(update=moved).moved(path, target)
    resolved = resolve(planned, vectors)
    found = None
    if resolved.skips:
        with progress_display() as shown:
            shown.update("cost against the dense model", 0, None)
            found = measure_cost(read, path, resolved, model=model, device=device_times, measure=cost)
        assert planned.plan is not None
        with_cost = planned.plan.model_copy(update={"cost": found.kept, "healed_from": healed_from})
        planned = planned.model_copy(update={"plan": with_cost})
    adapter = read_adapter(read, path) if elsewhere else None
    write_profile(planned, target, packed, adapter, overwrite=overwrite or not elsewhere)
    if searching:
        _show_front(planned, plot)
    _show(planned, resolved, target)
    for line in found.lines if found else ():
        _print(line)
    if fitted is not None:
        from edgeskip.cli.views.pareto import decode_line, quality_line

        _print(quality_line(fitted))
        if searching and decode_set:
            _print(decode_line(decode))


def _refuse_idle(
    searching: bool,
    fitting: bool,
    *,
    budget: dict[str, object],
    fits: dict[str, object],
    named: dict[str, object],
) -> None:
    """EdgeSkipError for an option that would do nothing."""
    from edgeskip.core.errors import EdgeSkipError

    for options, wanted, says in (
        (budget, searching, "--method budget"),
        (fits, searching or fitting, "--method budget or --fit"),
        (named, not searching, "another method: budget chooses the sublayers itself"),
    ):
        for name, value in options.items():
            if value is not None and not wanted:
                raise EdgeSkipError(f"{name} is of {says}: add that, or leave it out")


def _show_front(profile: Profile, plot: Path | None) -> None:
    from edgeskip.cli.views.pareto import front_table, plot_front
    from edgeskip.core.terminal import Console

    assert profile.front is not None
    assert profile.plan is not None
    chosen = next(n for n, found in enumerate(profile.front.points) if found.skip == profile.plan.skip)
    Console(highlight=False).print(front_table(profile.front, chosen))
    if plot is not None:
        plot_front(profile, plot)
        _print(f"{plot}: the front")


def _show(profile: Profile, plan: Plan, path: Path) -> None:
    from rich.table import Table

    from edgeskip.core.terminal import Console

    record = profile.plan
    assert record is not None
    console = Console(highlight=False, markup=False)
    if not plan.skips:
        console.print(f"{path}: dense, nothing is skipped", soft_wrap=True)
        return
    table = Table("sublayer", box=None)
    for heading in ("similarity", "scale", "‖bias‖"):
        table.add_column(heading, justify="right")
    for skip in plan.skips:
        similarity = profile.statistics(skip.sublayer).prefill.similarity
        length = "–" if skip.bias is None else f"{float((skip.bias.astype(float) ** 2).sum()) ** 0.5:.3f}"
        table.add_row(str(skip.sublayer), f"{similarity:.4f}", f"{skip.scale:.4f}", length)
    console.print(table)
    fitted = "fitted " if record.scales is not None else ""
    console.print(
        f"{path}: {record.method} skips {len(plan.skips)} of {2 * plan.num_blocks} sublayers, "
        f"{fitted}compensation {record.compensation}" + ("" if record.beta is None else f", β = {record.beta:.4f}"),
        soft_wrap=True,
    )


def _print(line: str) -> None:
    from edgeskip.core.terminal import Console

    Console(highlight=False, markup=False, soft_wrap=True).print(line)
