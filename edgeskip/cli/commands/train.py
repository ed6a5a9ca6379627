"""`edgeskip train`: teaches a model to exit early, an exit to predict, or a skipped model to do without."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

if TYPE_CHECKING:
    from edgeskip.training.loop import Advance, Progress, Report


class _Run(TypedDict):
    """What all methods take."""

    dtype: str
    overwrite: bool
    progress: Progress
    advance: Advance


# Options of some methods only, by parameter.
_METHODS = {
    "model": ("exit-adapter", "heal"),
    "exits": ("layerskip", "exit-adapter"),
    "lora": ("layerskip", "heal"),
    "lora_early": ("layerskip",),
    "lora_scaling": ("layerskip", "heal"),
    "p_max": ("layerskip",),
    "e_scale": ("layerskip",),
    "curriculum": ("layerskip",),
    "interval": ("layerskip",),
    "exit_weights": ("layerskip",),
    "adapter": ("exit-adapter",),
    "draft_vocab": ("exit-adapter",),
}


def train(
    ctx: typer.Context,
    start: Annotated[
        str,
        typer.Argument(help="layerskip: a model (name, folder, hub id, GGUF). exit-adapter, heal: a profile."),
    ],
    method: Annotated[
        str,
        typer.Option(
            help="layerskip: the whole model learns to exit early. exit-adapter: the model stays as it is, each exit "
            "gets a map or a block. heal: a LoRA wins back what the profile's skip plan lost."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run; a broken-off run goes on there.")],
    model: Annotated[
        str | None, typer.Option(help="exit-adapter, heal: the model, where it is not where the profile says.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Repeatable: self (what the model itself answers), FILE, FILE#FIELD, FILE#PROMPT,RESPONSE; text, "
            ".jsonl, .tsv or .csv."
        ),
    ] = None,
    prompts: Annotated[
        list[str] | None, typer.Option(help="self: FILE or FILE#FIELD with prompts.  [default: ours]")
    ] = None,
    validation: Annotated[
        list[str] | None, typer.Option(help="Files to measure on.  [default: a part held out of --data]")
    ] = None,
    exits: Annotated[
        str | None,
        typer.Option(help="Exit layers that learn, e.g. 4,8; exit-adapter needs them.  [default: layerskip: all]"),
    ] = None,
    lora: Annotated[
        int | None, typer.Option(help="Rank of a LoRA.  [default: layerskip: none, all weights learn; heal: 16]")
    ] = None,
    lora_early: Annotated[
        int | None, typer.Option(help="Its rank in the blocks before the deepest exit.  [default: the same]")
    ] = None,
    lora_scaling: Annotated[float, typer.Option(help="Its scaling, alpha / rank.")] = 2.0,
    p_max: Annotated[float, typer.Option(help="layerskip: rate at which the last block is left out.")] = 0.1,
    e_scale: Annotated[float, typer.Option(help="layerskip: scale of the exits' losses.")] = 1.0,
    curriculum: Annotated[str, typer.Option(help="layerskip: rotational or gradual.")] = "rotational",
    interval: Annotated[
        int | None,
        typer.Option(
            help="layerskip: every how manieth exit learns at a step (rotational).  [default: 8; 1 with --exits]"
        ),
    ] = None,
    exit_weights: Annotated[
        str, typer.Option(help="layerskip: paper (square of the depth) or equal (exits together as much as the last).")
    ] = "paper",
    adapter: Annotated[
        str, typer.Option(help="exit-adapter: block (one more transformer block for the draft) or map (a matrix).")
    ] = "block",
    draft_vocab: Annotated[
        int | None, typer.Option(help="exit-adapter: train for a draft head of this many tokens.  [default: all]")
    ] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 1.0,
    steps: Annotated[int | None, typer.Option(help="Steps in place of --epochs.", show_default=False)] = None,
    batch_size: Annotated[int, typer.Option(help="Examples a step, of all processes together.")] = 16,
    learning_rate: Annotated[
        float | None, typer.Option(help="Highest.  [default: 2e-4; 1e-3 with a LoRA and for exit-adapter]")
    ] = None,
    warmup: Annotated[int, typer.Option(help="Steps over which it rises.")] = 20,
    decay: Annotated[str, typer.Option(help="How it falls: cosine, linear or constant.")] = "cosine",
    context: Annotated[
        int | None,
        typer.Option(help="Tokens of an example at most.", show_default="512, or what the model holds"),
    ] = None,
    held_out: Annotated[float, typer.Option(help="Share of the examples that is measured on, not learned.")] = 0.02,
    new_tokens: Annotated[int, typer.Option(help="self: tokens of an answer at most.")] = 192,
    temperature: Annotated[float, typer.Option(help="self: 0 = greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, or auto: bfloat16 where the hardware computes in it.")
    ] = "auto",
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints: what a kill loses at most.")] = 50,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that the folder holds.")] = False,
) -> None:
    """Train, on any supported model, what early exits need. Needs the extra `train`.

    On several devices:  accelerate launch -m edgeskip train …  or torchrun --nproc-per-node N -m edgeskip train …
    """
    from edgeskip.core.errors import EdgeSkipError
    from edgeskip.core.locks import hold
    from edgeskip.training.config import (
        METHODS,
        ExitPolicy,
        LayerSkipConfig,
        LowRankConfig,
        OptimizerConfig,
        SelfDataConfig,
    )
    from edgeskip.training.data import Data

    if method not in METHODS:
        raise EdgeSkipError(f"--method {method} is unknown: choose {', '.join(METHODS)}")
    given = {name for name in ctx.params if _is_given(ctx, name)}
    _refuse_needless(
        given, method, writes="self" in (data or ()), rotates=curriculum == "rotational", learns=e_scale > 0
    )
    layers = tuple(_layers(exits)) if exits is not None else ()
    low_rank = LowRankConfig(lora, lora_scaling, lora_early, max(layers, default=0)) if lora is not None else None
    usual = 2e-4 if method == "layerskip" and lora is None else 1e-3
    rate = usual if learning_rate is None else learning_rate
    policy = OptimizerConfig(rate, batch_size, epochs, steps, warmup, decay, seed=seed, save_every=save_every)  # type: ignore[arg-type]
    generation = SelfDataConfig(tuple(prompts or ()), new_tokens, temperature=temperature)
    texts = Data(tuple(data or ()), context, tuple(validation or ()), held_out, generation, seed)
    hold(output)
    with _progress() as (progress, advance):
        run: _Run = {"dtype": dtype, "overwrite": overwrite, "progress": progress, "advance": advance}
        if method == "layerskip":
            from edgeskip.models.source import open_model
            from edgeskip.training.train_layerskip import train_layerskip

            every = (1 if layers else 8) if interval is None else interval
            recipe = LayerSkipConfig(p_max, e_scale, curriculum, every, layers, exit_weights)  # type: ignore[arg-type]
            source = open_model(start)
            card = train_layerskip(source, texts, recipe, policy, low_rank, output, **run)
        elif method == "exit-adapter":
            from edgeskip.training.train_exits import train_exits
            from edgeskip.training.trained_profile import open_profile

            trained = ExitPolicy(layers, adapter, draft_vocab)  # type: ignore[arg-type]
            card = train_exits(open_profile(start, model), texts, trained, policy, output, **run)
        else:
            from edgeskip.training.train_heal import train_heal
            from edgeskip.training.trained_profile import open_profile

            healing = low_rank or LowRankConfig(16, lora_scaling)
            card = train_heal(open_profile(start, model), texts, policy, healing, output, **run)
    if card is not None:
        from edgeskip.training.run_card import in_words

        print(in_words(card), file=sys.stderr)
        print(output)


def _refuse_needless(given: Set[str], method: str, *, writes: bool, rotates: bool, learns: bool) -> None:
    """EdgeSkipError for the first of the parameters `given` that would do nothing.

    `writes`: the model writes data itself; `rotates`: the curriculum is the rotational one; `learns`: exits have a
    loss.
    """
    from edgeskip.core.errors import EdgeSkipError

    reasons = {
        name: f"it is for --method {' and '.join(methods)}"
        for name, methods in _METHODS.items()
        if method not in methods
    }
    if not writes:
        reasons |= dict.fromkeys(("prompts", "new_tokens", "temperature"), "it is for --data self")
    if method == "layerskip" and "lora" not in given:
        reasons |= dict.fromkeys(("lora_early", "lora_scaling"), "it is for --lora")
    if not rotates:
        reasons.setdefault("interval", "it is for --curriculum rotational")
    if not learns:
        for name in ("curriculum", "interval", "exit_weights"):
            reasons.setdefault(name, "--e-scale 0 trains no exit")
    if "steps" in given:
        reasons["epochs"] = "--steps stands in its place"
    if "validation" in given:
        reasons["held_out"] = "--validation is measured on"
    for name, reason in reasons.items():
        if name in given:
            option = f"--{name.replace('_', '-')}"
            raise EdgeSkipError(f"{option} has no effect here (--method {method}): {reason}")


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _layers(text: str) -> list[int]:
    from edgeskip.core.errors import EdgeSkipError
    from edgeskip.core.whole_number import whole_numbers

    layers = whole_numbers(text)
    if layers is None:
        raise EdgeSkipError(f"--exits {text:.60}: give numbers of blocks, as in --exits 4,8")
    return sorted(set(layers))


@contextmanager
def _progress() -> Iterator[tuple[Progress, Advance]]:
    """On stderr: what happens before the first step, then the steps with losses, tokens/s and time left."""
    from edgeskip.core.progress import progress_display

    with progress_display(transient=False) as shown:
        shown.update("loading the model", 0, None)
        seen: dict[str, float] = {}

        def progress(report: Report) -> None:
            seen.update(report.losses)
            losses = " ".join(f"{name} {loss:.2f}" for name, loss in seen.items())
            shown.update("steps", report.step, report.steps, f"{report.tokens_per_second:,.0f} tokens/s, {losses}")

        yield progress, shown.update
