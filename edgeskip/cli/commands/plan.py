"""`edgeskip plan`: the options of `edgeskip.plan`, its progress and its result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgeskip.cli.options import HARDWARE, Field, Json, Model, Overwrite, ProfileArg, output_option
from edgeskip.core.plan import Compensation, PlanMethod
from edgeskip.core.terminal import print_json

if TYPE_CHECKING:
    from edgeskip.api.plan import PlanResult
    from edgeskip.core.plan import Plan
    from edgeskip.profiles.schema import Profile

BUDGET, FITTING = "With --method budget", "With --method budget or --fit"


def plan(
    profile: ProfileArg,
    skip_sublayers: Annotated[
        int | None, typer.Option(metavar="N", help="Number of sublayers to skip; 0 = dense.")
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(metavar="X", help="Acceleration ratio α: skip 2m sublayers, m = M − M/α, of M blocks."),
    ] = None,
    skip: Annotated[
        str | None, typer.Option(metavar="NAME,…", help="Sublayers to skip, by name, e.g. attn.25,ffn.3.")
    ] = None,
    method: Annotated[
        PlanMethod,
        typer.Option(
            help="How sublayers are chosen: by similarity (adaskip), by a search for the plans that lose least "
            "(budget), or in one of the ways to compare with."
        ),
    ] = "adaskip",
    compensation: Annotated[
        Compensation | None,
        typer.Option(
            help="What replaces a skipped sublayer: nothing, x·s (scale), x·s + b (affine), or x + T·u + b with u the "
            "update before it (linear; fitted to the plan).",
            show_default="affine; linear with --method budget",
        ),
    ] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Fit the compensation to this plan, on the stream that its skips leave.")
    ] = False,
    max_kl: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Take the fastest plan with KL(dense ‖ skipped) up to X nats per token.",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    max_ppl_increase: Annotated[
        str | None,
        typer.Option(
            metavar="X%",
            help="Take the fastest plan with a perplexity higher by up to X %, a standard error to spare.",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    min_speedup: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Take the plan that loses least and decodes X times as fast.",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    point: Annotated[
        int | None,
        typer.Option(metavar="N", help="Take point N of the Pareto front, counted from 1.", rich_help_panel=BUDGET),
    ] = None,
    objective: Annotated[
        Literal["kl", "perplexity"] | None,
        typer.Option(help="What the search keeps low.", show_default="kl", rich_help_panel=BUDGET),
    ] = None,
    max_skips: Annotated[
        int | None, typer.Option(metavar="N", help="Most sublayers that the search skips.", rich_help_panel=BUDGET)
    ] = None,
    search_kl: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="KL at which the search ends, nats per token.",
            show_default="1",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    search: Annotated[
        bool,
        typer.Option("--search", help="Search again although the profile has a front.", rich_help_panel=BUDGET),
    ] = False,
    decode_set: Annotated[
        bool,
        typer.Option(help="Also choose FFNs that decoding may leave out, with P and β.", rich_help_panel=BUDGET),
    ] = True,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Draw the front into a .png, .svg or .pdf file.", rich_help_panel=BUDGET),
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Text or .jsonl file; repeatable.",
            show_default="a text that ships with EdgeSkip",
            rich_help_panel=FITTING,
        ),
    ] = None,
    field: Field = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Tokens to fit to; the result is measured on 3/4 as many others.",
            show_default="8192; 3072 of the text that ships",
            rich_help_panel=FITTING,
        ),
    ] = None,
    window_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Tokens per window; more for long prompts.",
            show_default="1024; 256 for the text that ships",
            rich_help_panel=FITTING,
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="PyTorch device.", show_default="cpu", rich_help_panel=FITTING)
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Seed of the method random, and for drawing the windows to fit to.", show_default="0"
        ),
    ] = None,
    device_profile: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="What sublayers cost on the device (from edgeskip profile-device); predicts the speed-up.",
            rich_help_panel=HARDWARE,
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Tokens in the KV cache that the times of --device-profile are for.",
            show_default="512",
            rich_help_panel=HARDWARE,
        ),
    ] = None,
    model: Model = None,
    cost: Annotated[
        bool,
        typer.Option(
            help="Measure what the plan loses against the dense model, on a text that ships, if torch and the model "
            "are here."
        ),
    ] = True,
    output: Annotated[Path | None, output_option("Profile to write.  [default: PROFILE itself]")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Choose the sublayers to skip, by number, ratio or budget.

    The plan is written into the profile. --method budget searches for a Pareto front of plans, which the profile
    keeps; a search that was interrupted goes on.
    """
    from edgeskip.api.plan import PlanOptions, plan_with_details
    from edgeskip.cli.progress import progress_bar
    from edgeskip.cli.views.pareto import check_figure, plot_front
    from edgeskip.cli.views.plain import plain
    from edgeskip.core.errors import EdgeSkipError
    from edgeskip.core.lists import parse_names
    from edgeskip.planning.search.pareto import parse_share
    from edgeskip.profiles.schema import Profile, locate_profile

    options = PlanOptions(
        skip_sublayers=skip_sublayers, alpha=alpha,
        skip=None if skip is None else parse_names(skip, "--skip"),
        method=method, compensation=compensation, fit=fit, max_kl=max_kl,
        max_ppl_increase=None if max_ppl_increase is None else parse_share(max_ppl_increase),
        min_speedup=min_speedup, point=point, objective=objective, max_skips=max_skips, search_kl=search_kl,
        search=search, decode_set=decode_set, corpus=tuple(corpus or ()), field=field, tokens=tokens,
        window_tokens=window_tokens, device_profile=device_profile, context=context, model=model, device=device,
        seed=seed, measure_cost=cost,
    )  # fmt: skip
    if plot is not None:
        if method != "budget":
            raise EdgeSkipError("--plot has no effect without --method budget; add it or leave this out")
        check_figure(plot)
    path = locate_profile(profile)
    target = output or path
    same = target.resolve() == path.resolve()
    with progress_bar() as bar:
        result = plan_with_details(
            Profile.load(path), options, output=target, overwrite=overwrite or same, progress=bar
        )
    if plot is not None:
        plot_front(result.profile, plot)
    if json:
        print_json(plain({"profile": target, "plan": result.profile.plan, "front": result.profile.front}))
    else:
        _show(result, target, plot, decode_set=decode_set)


def _show(result: PlanResult, path: Path, plot: Path | None, *, decode_set: bool) -> None:
    from edgeskip.cli.views.pareto import decode_line, quality_line

    searched = result.profile.plan is not None and result.profile.plan.method == "budget"
    if searched:
        _show_front(result.profile)
    if plot is not None:
        _print(f"{plot}: the front")
    _show_plan(result.profile, result.plan, path)
    for line in result.cost.lines if result.cost else ():
        _print(line)
    if result.fitted is not None:
        _print(quality_line(result.fitted))
        if searched and decode_set:
            _print(decode_line(result.decode))


def _show_front(profile: Profile) -> None:
    from edgeskip.cli.views.pareto import front_table
    from edgeskip.core.terminal import Console

    assert profile.front is not None
    assert profile.plan is not None
    chosen = next(n for n, found in enumerate(profile.front.points) if found.skip == profile.plan.skip)
    Console(highlight=False).print(front_table(profile.front, chosen))


def _show_plan(profile: Profile, plan: Plan, path: Path) -> None:
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
