"""`edgeskip train`: the options of `edgeskip.train`, its progress and its result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgeskip.cli import messages
from edgeskip.cli.options import HARDWARE, MODEL, Json, Model, output_option
from edgeskip.core.terminal import print_json

LAYERSKIP, LORA, STEPS = "With --method layerskip", "LoRA", "Optimizer"


def train(
    start: Annotated[
        str,
        typer.Argument(metavar="START", help="layerskip: a model (name, folder, hub id, .gguf). Others: a profile."),
    ],
    method: Annotated[
        Literal["layerskip", "exit-adapter", "heal"],
        typer.Option(
            help="layerskip: the whole model learns to exit early. exit-adapter: the model stays as it is, each exit "
            "gets a map or a block. heal: a LoRA wins back what the profile's skip plan lost."
        ),
    ],
    output: Annotated[Path, output_option("Folder of the run; an interrupted run goes on there.", "FOLDER")],
    model: Model = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="What to learn from: self (what the model itself answers), FILE, FILE#FIELD or FILE#PROMPT,RESPONSE; "
            "text, .jsonl, .tsv or .csv; repeatable.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="--data self: FILE or FILE#FIELD with prompts; repeatable.",
            show_default="those that ship",
            rich_help_panel=MODEL,
        ),
    ] = None,
    validation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Files to measure on; repeatable.",
            show_default="a part held out of --data",
            rich_help_panel=MODEL,
        ),
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Share of the examples that is measured on, not learned.",
            show_default="0.02",
            rich_help_panel=MODEL,
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Most tokens of an example.",
            show_default="512, or what the model holds",
            rich_help_panel=MODEL,
        ),
    ] = None,
    new_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="--data self: most tokens of an answer.", show_default="192", rich_help_panel=MODEL
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(metavar="X", help="--data self: 0 = greedy.", show_default="0", rich_help_panel=MODEL),
    ] = None,
    exits: Annotated[
        str | None,
        typer.Option(
            metavar="E,…",
            help="Exit layers that learn, e.g. 4,8; exit-adapter needs them.",
            show_default="layerskip: all",
        ),
    ] = None,
    adapter: Annotated[
        Literal["block", "map"] | None,
        typer.Option(
            help="exit-adapter: block (one more transformer block for the draft) or map (a matrix).",
            show_default="block",
        ),
    ] = None,
    draft_vocab: Annotated[
        int | None,
        typer.Option(metavar="N", help="exit-adapter: train for a draft head of N tokens.", show_default="all tokens"),
    ] = None,
    lora: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Rank of a LoRA.",
            show_default="layerskip: none, all weights learn; heal: 16",
            rich_help_panel=LORA,
        ),
    ] = None,
    lora_early: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="layerskip: its rank in the blocks before the deepest exit.",
            show_default="the same",
            rich_help_panel=LORA,
        ),
    ] = None,
    lora_scaling: Annotated[
        float | None,
        typer.Option(metavar="X", help="Its scaling, alpha / rank.", show_default="2", rich_help_panel=LORA),
    ] = None,
    p_max: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Rate at which the last block is dropped.",
            show_default="0.1",
            rich_help_panel=LAYERSKIP,
        ),
    ] = None,
    e_scale: Annotated[
        float | None,
        typer.Option(metavar="X", help="Scale of the exits' losses.", show_default="1", rich_help_panel=LAYERSKIP),
    ] = None,
    curriculum: Annotated[
        Literal["rotational", "gradual"] | None,
        typer.Option(help="Which exits learn when.", show_default="rotational", rich_help_panel=LAYERSKIP),
    ] = None,
    interval: Annotated[
        int | None,
        typer.Option(
            metavar="R",
            help="Train every R-th exit at each step (rotational).",
            show_default="8; 1 with --exits",
            rich_help_panel=LAYERSKIP,
        ),
    ] = None,
    exit_weights: Annotated[
        Literal["paper", "equal"] | None,
        typer.Option(
            help="Weights of the exits' losses: the square of the depth (paper), or all exits together as much as the "
            "last layer (equal).",
            show_default="paper",
            rich_help_panel=LAYERSKIP,
        ),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(metavar="X", help="Passes over the data.", show_default="1", rich_help_panel=STEPS),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", help="Steps, in place of --epochs.", show_default=False, rich_help_panel=STEPS),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", help="Examples per step, of all processes together.", rich_help_panel=STEPS)
    ] = 16,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Highest learning rate.",
            show_default="2e-4; 1e-3 with a LoRA and for exit-adapter",
            rich_help_panel=STEPS,
        ),
    ] = None,
    warmup: Annotated[
        int, typer.Option(metavar="N", help="Steps over which the learning rate rises.", rich_help_panel=STEPS)
    ] = 20,
    decay: Annotated[
        Literal["cosine", "linear", "constant"],
        typer.Option(help="How the learning rate falls.", rich_help_panel=STEPS),
    ] = "cosine",
    save_every: Annotated[
        int,
        typer.Option(
            metavar="N", help="Steps between checkpoints: what a killed run loses at most.", rich_help_panel=STEPS
        ),
    ] = 50,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of everything that is drawn.")] = 0,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="auto: bfloat16 if the hardware computes in it.", rich_help_panel=HARDWARE),
    ] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that the folder holds.")] = False,
    json: Json = False,
) -> None:
    """Train early exits, or heal a skipped model.

    Works for every supported model; needs the extra `train`. On several devices:
    accelerate launch -m edgeskip train …  or  torchrun --nproc-per-node N -m edgeskip train …
    """
    from edgeskip.api.train import train
    from edgeskip.cli.progress import progress_bar
    from edgeskip.core.lists import parse_numbers

    with progress_bar(transient=False) as bar:
        result = train(
            start, method=method, output=output, data=tuple(data or ()), model=model, prompts=prompts,
            validation=validation, exits=None if exits is None else parse_numbers(exits, "--exits", example="4,8"),
            lora=lora, lora_early=lora_early, lora_scaling=lora_scaling, p_max=p_max, e_scale=e_scale,
            curriculum=curriculum, interval=interval, exit_weights=exit_weights, adapter=adapter,
            draft_vocab=draft_vocab, epochs=epochs, steps=steps, batch_size=batch_size, learning_rate=learning_rate,
            warmup=warmup, decay=decay, context=context, held_out=held_out, new_tokens=new_tokens,
            temperature=temperature, seed=seed, dtype=dtype, save_every=save_every, overwrite=overwrite, progress=bar,
        )  # fmt: skip
    if not result.record:  # another process of a launch
        return
    messages.status(result.summary)
    if json:
        print_json({"path": str(result.path), **result.record})
    else:
        print(output)
