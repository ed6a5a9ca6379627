"""`edgeskip calibrate`: the options of `edgeskip.calibrate`, its progress and its result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgeskip.cli.options import HARDWARE, MODEL, Field, Json, ModelArg, Overwrite, output_option
from edgeskip.core.terminal import print_json


def calibrate(
    model: ModelArg,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Text or .jsonl file; repeatable. `self`: continuations that the model writes of our prompts.",
            show_default="a text that ships with EdgeSkip",
            rich_help_panel=MODEL,
        ),
    ] = None,
    field: Field = None,
    output: Annotated[
        Path | None, output_option("Profile to write; its vectors, and a LoRA, go beside it.  [default: MODEL.json]")
    ] = None,
    overwrite: Overwrite = False,
    name: Annotated[
        str | None,
        typer.Option(help="Short name of the model, for naming outputs.", show_default="that of its file or folder"),
    ] = None,
    tokens: Annotated[int, typer.Option(metavar="N", help="Tokens of text to measure in the prefill phase.")] = 16384,
    context: Annotated[
        int | None,
        typer.Option(metavar="N", help="Tokens per window.", show_default="1024, or what the model holds"),
    ] = None,
    decode_tokens: Annotated[
        int, typer.Option(metavar="N", help="Tokens to generate for the decode phase; 0 = none.")
    ] = 1024,
    exits: Annotated[
        str | None,
        typer.Option(
            metavar="E,…", help="Exit layers to calibrate for early-exit drafts, e.g. 4,6,8.", show_default="none"
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed for drawing windows and prompts from a corpus with more than needed.")
    ] = 0,
    device: Annotated[
        str, typer.Option(help="PyTorch device: cpu, cuda, cuda:1, mps, …", rich_help_panel=HARDWARE)
    ] = "cpu",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option(help="Floating-point type that the model runs in.", rich_help_panel=HARDWARE),
    ] = "float32",
    json: Json = False,
) -> None:
    """Measure what each sublayer does, and write a profile.

    To share the work between processes:  torchrun --nproc-per-node N -m edgeskip calibrate …
    """
    from edgeskip.api.calibrate import calibrate, default_path, is_first_process
    from edgeskip.calibration.config import parse_exits
    from edgeskip.cli.progress import progress_bar
    from edgeskip.cli.views.plain import plain
    from edgeskip.models.source import open_model

    layers = parse_exits(exits) if exits is not None else ()
    with progress_bar(transient=False) as bar:
        path = output or default_path(name or open_model(model).name)
        profile = calibrate(
            model, corpus=corpus or (), field=field, tokens=tokens, context=context, decode_tokens=decode_tokens,
            exits=layers, name=name, seed=seed, device=device, dtype=dtype, output=path, overwrite=overwrite,
            progress=bar,
        )  # fmt: skip
    if not is_first_process():
        return
    if json:
        print_json(plain({"profile": path, "model": profile.model, "calibration": profile.calibration}))
    else:
        print(path)
