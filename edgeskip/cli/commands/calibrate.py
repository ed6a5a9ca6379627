"""`edgeskip calibrate`: measures a model over a corpus and writes its profile."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeskip.calibration.config import CalibrationConfig
    from edgeskip.profiles.schema import Profile


def calibrate(
    model: Annotated[
        str, typer.Argument(help="A ready model's name, a Hugging Face or PEFT folder or hub id, or a GGUF file.")
    ],
    corpus: Annotated[
        list[str] | None,
        typer.Option(help="Text or .jsonl file, repeatable; 'self' = the model's own continuations of our prompts."),
    ] = None,
    field: Annotated[str | None, typer.Option(help="Field of .jsonl records that holds the text.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Profile to write; its vectors, and a LoRA, go beside it.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing profile.")] = False,
    name: Annotated[str | None, typer.Option(help="Short name of the model, used to name outputs.")] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of text to measure in the prefill phase.")] = 16384,
    context: Annotated[
        int | None, typer.Option(help="Tokens per window.  [default: 1024, or what the model holds]")
    ] = None,
    decode_tokens: Annotated[int, typer.Option(help="Tokens to generate for the decode phase; 0 = none.")] = 1024,
    exits: Annotated[
        str | None, typer.Option(help="Exit layers to calibrate for early-exit drafts, e.g. 4,6,8.  [default: none]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws windows and prompts where the corpus has more than needed.")] = 0,
    device: Annotated[str, typer.Option(help="PyTorch device: cpu, cuda, cuda:1, mps …")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
) -> None:
    """Measure what each sublayer does, and how well the model can exit early, and write that as a profile.

    To share the work between processes:  torchrun --nproc-per-node N -m edgeskip calibrate …
    """
    from edgeskip.calibration.calibrate import calibrate
    from edgeskip.calibration.config import CalibrationConfig, parse_exits
    from edgeskip.calibration.corpus import corpus_named
    from edgeskip.core.locks import hold
    from edgeskip.core.progress import progress_display
    from edgeskip.models.source import open_model
    from edgeskip.profiles.output import refuse_output
    from edgeskip.profiles.schema import write_profile
    from edgeskip.runtime.engines.onnxruntime.attention_limits import head_size_problem

    layers = parse_exits(exits) if exits is not None else ()
    settings = CalibrationConfig(tokens, context, decode_tokens, seed, device, dtype, layers)  # type: ignore[arg-type]
    texts = corpus_named(corpus or [], field)
    source = open_model(model)
    path = output or Path(f"{name or source.name}.json".lower())
    refuse_output(path, overwrite=overwrite)
    hold(path)
    refuse_output(path, overwrite=overwrite)  # whoever had claimed it may have made it
    if (problem := head_size_problem(source.decoder)) is not None and os.environ.get("RANK", "0") == "0":
        print(f"edgeskip: note: {problem}: export it with  edgeskip export --target gguf", file=sys.stderr)
    with progress_display(unit="tokens", transient=False) as shown:
        shown.update("loading the model", 0, None)
        result = calibrate(source, texts, settings, path, name=name, progress=shown.update)
    if result is not None:
        profile, packed = result
        write_profile(profile, path, packed, source.stored_lora, overwrite=overwrite)
        print(path)
        for note in _shortfalls(profile, settings):
            print(f"edgeskip: note: {note}", file=sys.stderr)


def _shortfalls(profile: Profile, settings: CalibrationConfig) -> Iterator[str]:
    """What was measured less than asked for, because there was no more of it."""
    first = profile.sublayers[0]
    context = profile.calibration.context
    if first.prefill.tokens + context <= settings.tokens:
        yield f"the corpus gave {first.prefill.tokens:,} tokens of the {settings.tokens:,} that --tokens asks for"
    decoded = first.decode.tokens if first.decode else 0
    if settings.decode_tokens and not decoded:
        yield "nothing was measured of decoding: the model ended its continuations, or the text has no prompts"
    elif decoded < settings.decode_tokens // 2:
        yield (
            f"decoding gave {decoded:,} tokens of the {settings.decode_tokens:,} that --decode-tokens asks for: the "
            "model ended its continuations, or the text has too few prompts"
        )
