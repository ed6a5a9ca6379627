"""`edgeskip.calibrate`: measure a model over a corpus and return its profile."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from edgeskip.api.argument_names import names_arguments
from edgeskip.core.locks import claim
from edgeskip.core.notes import note
from edgeskip.core.progress import Progress, ProgressEvent, reporting_to, silent
from edgeskip.profiles.output import refuse_output
from edgeskip.profiles.schema import Profile

if TYPE_CHECKING:
    from edgeskip.calibration.config import CalibrationConfig, DType


@names_arguments
def calibrate(
    model: str | Path,
    *,
    corpus: str | Path | Sequence[str | Path] = (),
    field: str | None = None,
    tokens: int = 16384,
    context: int | None = None,
    decode_tokens: int = 1024,
    exits: Sequence[int] = (),
    name: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    dtype: DType = "float32",
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Profile:
    """Measure what each sublayer of a model does, and how well the model can exit early.

    Needs the extra `export` (torch, transformers). Under torchrun the processes share the work; each of them gets the
    profile, and the first one writes it.

    Args:
        model: Name that `edgeskip fetch` knows, Hugging Face or PEFT folder, hub id, or `.gguf` file.
        corpus: Text or `.jsonl` files to measure on; `"self"` = the model's own continuations of prompts that ship
            with EdgeSkip; none = a text that ships with it.
        field: Field of `.jsonl` records that holds the text; None = `text`, or the only field with text.
        tokens: Tokens of text to measure in the prefill phase.
        context: Tokens per window; None = 1024, or what the model holds.
        decode_tokens: Tokens to generate for the decode phase; 0 = none.
        exits: Exit layers (blocks before the exit) to calibrate for early-exit drafts.
        name: Short name of the model, for naming outputs; None = that of its file or folder.
        seed: Draws windows and prompts if the corpus has more than needed.
        device: PyTorch device, e.g. `cpu`, `cuda:1` or `mps`.
        dtype: Floating-point type that the model runs in.
        output: Profile to write, a `.json` file; None = none, the profile stays in memory until it is saved.
        overwrite: Replace a profile at `output`.
        progress: Gets the stages `prefill`, `decode` and `exits`, counted in tokens.

    Returns:
        The profile: IO similarity, scales and errors of every sublayer (means over tokens, no unit), without a plan.

    Raises:
        EdgeSkipError: If the model or the corpus cannot be read, an argument does not fit the model, or `output`
            cannot be written; nothing is left half-written.

    Example:
        >>> profile = edgeskip.calibrate("model", corpus="corpus.txt", tokens=512, context=64, decode_tokens=64)
        >>> len(profile.sublayers) == 2 * profile.model.num_blocks
        True
        >>> profile.sublayers[0].name
        'attn.0'
    """
    from edgeskip.calibration.calibrate import calibrate
    from edgeskip.calibration.config import CalibrationConfig
    from edgeskip.calibration.corpus import corpus_named
    from edgeskip.models.source import open_model
    from edgeskip.runtime.engines.onnxruntime.attention_limits import head_size_problem

    config = CalibrationConfig(tokens, context, decode_tokens, seed, device, dtype, tuple(sorted(set(exits))))
    texts = corpus_named([corpus] if isinstance(corpus, str | Path) else corpus, field)
    with reporting_to(progress):  # of a download
        source = open_model(os.fspath(model))
    target = default_path(name or source.name) if output is None else Path(output).expanduser()
    writes = output is not None and is_first_process()
    if writes:
        refuse_output(target, overwrite=overwrite)
    with claim(target) if writes else nullcontext():
        if writes:
            refuse_output(target, overwrite=overwrite)  # whoever had claimed it may have made it
        if (problem := head_size_problem(source.decoder)) is not None:
            note(f"{problem}; export it with  --target gguf")
        progress(ProgressEvent("loading the model", unit="tokens"))
        profile = calibrate(source, texts, config, target, name=name, progress=progress)
        if writes:
            profile = profile.save(target, overwrite=overwrite)
    for shortfall in _shortfalls(profile, config):
        note(shortfall)
    return profile


def default_path(name: str) -> Path:
    """Return where the profile of the model called `name` goes by default."""
    return Path(f"{name}.json".lower())


def is_first_process() -> bool:
    """Return whether this is the process of a torchrun that writes."""
    return os.environ.get("RANK", "0") == "0"


def _shortfalls(profile: Profile, config: CalibrationConfig) -> Iterator[str]:
    """Say what was measured less than requested, because there was no more of it."""
    first = profile.sublayers[0]
    if first.prefill.tokens + profile.calibration.context <= config.tokens:
        yield f"the corpus has {first.prefill.tokens:,} tokens of the {config.tokens:,} that --tokens requests"
    decoded = first.decode.tokens if first.decode else 0
    if config.decode_tokens and not decoded:
        yield "the decode phase was not measured: the model ended its continuations, or the text has no prompts"
    elif decoded < config.decode_tokens // 2:
        yield (
            f"decoding gave {decoded:,} tokens of the {config.decode_tokens:,} that --decode-tokens requests: the "
            "model ended its continuations, or the text has too few prompts"
        )
