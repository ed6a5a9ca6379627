"""Calibration of a model over a corpus: from a model source and settings to a profile without a plan."""

from __future__ import annotations

import math
import os
import random
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Literal, get_args

from edgeskip.calibration.corpus import Corpus, windows_of
from edgeskip.calibration.measure import measure_decode, measure_prefill
from edgeskip.calibration.sharding import Shard, joined
from edgeskip.calibration.sums import statistics_of, vectors_of
from edgeskip.errors import EdgeSkipError
from edgeskip.profile import CalibrationRecord, Phase, Profile, SublayerStatistics, Vectors, pack_vectors
from edgeskip.sublayers import sublayers_of
from edgeskip.version import __version__

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from edgeskip.calibration.sums import PhaseSums
    from edgeskip.exporters.families.source import ModelSource

    Array = NDArray[np.float64]

DType = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[DType, ...] = get_args(DType)
PROMPT_TOKENS = 128  # length of the prompts cut from the corpus, at most
CONTINUATION = 64  # greedy tokens per prompt, at most


@dataclass(frozen=True)
class Settings:
    """How to calibrate. `context` None = 1024 or what the model holds; `decode_tokens` 0 = no decode phase."""

    tokens: int = 16384
    context: int | None = None
    decode_tokens: int = 1024
    seed: int = 0
    device: str = "cpu"
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        for name, value in (("--tokens", self.tokens), ("--context", self.context)):
            if value is not None and value < 1:
                raise EdgeSkipError(f"{name} {value} is not a number of tokens: give at least 1")
        if self.decode_tokens < 0:
            raise EdgeSkipError(f"--decode-tokens {self.decode_tokens} is negative: give 0 for no decode phase")
        if self.dtype not in DTYPES:
            raise EdgeSkipError(f"--dtype {self.dtype} is unknown: choose one of {', '.join(DTYPES)}")


# Called with (phase, tokens done, tokens in all); both count all processes' tokens, by this process' share.
Progress = Callable[[Phase, int, int], None]


def calibrate(
    source: ModelSource,
    corpus: Corpus,
    settings: Settings,
    path: Path,
    *,
    name: str | None = None,
    progress: Progress = lambda phase, done, total: None,
) -> tuple[Profile, bytes] | None:
    """Measures `source` over `corpus`: the profile for `path`, without a plan, and the bytes of its vectors file.

    Runs the torch model once over the corpus' windows (prefill) and once over its own greedy continuations of
    prompts from them (decode). Under torchrun the processes share the work and only rank 0 gets the result, the
    others None. Writes nothing. EdgeSkipError for a corpus shorter than a window, a context the model does not
    hold, a device that is not there and statistics that overflow.
    """
    from edgeskip.exporters.families.torch_model import load_torch_model

    config = source.decoder.config
    context = settings.context or min(1024, config.max_positions)
    if context > config.max_positions:
        raise EdgeSkipError(f"--context {context} is longer than the model's {config.max_positions} positions")
    tokenizer = _tokenizer(source)
    windows = windows_of(corpus, tokenizer, context=context, tokens=settings.tokens, seed=settings.seed)
    continuation = min(CONTINUATION, config.max_positions - 1)
    prompts = prompts_from(
        windows,
        count=math.ceil(settings.decode_tokens / continuation),
        length=min(PROMPT_TOKENS, context, config.max_positions - continuation),
        seed=settings.seed,
    )
    device = _device(settings.device)
    with joined(device) as shard:
        import torch

        model = load_torch_model(source, dtype=getattr(torch, settings.dtype), device=str(device))
        advance = _Advance(progress, shard)
        advance.start("prefill", sum(map(len, windows)))
        sums: dict[Phase, PhaseSums] = {"prefill": measure_prefill(model, windows, shard, advance)}
        if prompts:
            advance.start("decode", len(prompts) * continuation)
            sums["decode"] = measure_decode(
                model, prompts, shard, advance, new_tokens=continuation + 1, end_tokens=end_tokens_of(source)
            )
        if shard.rank > 0:
            return None
    sublayers, vectors = _statistics({phase: sums[phase].arrays() for phase in sums})
    record, packed = pack_vectors(vectors, path)
    calibration = CalibrationRecord(
        corpus=list(corpus.files),
        field=corpus.field,
        context=context,
        seed=settings.seed,
        dtype=settings.dtype,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={
            "edgeskip": __version__,
            "python": python_version(),
            **{package: version(package) for package in ("torch", "transformers", "tokenizers")},
        },
    )
    model = source.record() if name is None else source.record().model_copy(update={"name": name})
    return Profile(model=model, calibration=calibration, sublayers=sublayers, vectors=record), packed


def prompts_from(windows: list[list[int]], *, count: int, length: int, seed: int) -> list[list[int]]:
    """`count` prompts of `length` tokens cut from the windows, drawn by `seed`; fewer where there are no more."""
    pieces = [window[i : i + length] for window in windows for i in range(0, len(window) - length + 1, length)]
    return random.Random(seed).sample(pieces, min(count, len(pieces)))


def end_tokens_of(source: ModelSource) -> frozenset[int]:
    """Ids that end a text, by the model's config and generation config together."""
    found: set[int] = set()
    for settings in (source.config, source.generation_config):
        ids = settings.get("eos_token_id")
        found.update(ids if isinstance(ids, Iterable) else [] if ids is None else [ids])
    return frozenset(found)


class _Advance:
    """Turns the tokens this process has done into progress of the whole."""

    def __init__(self, progress: Progress, shard: Shard) -> None:
        self._progress, self._shard = progress, shard

    def start(self, phase: Phase, total: int) -> None:
        self._phase: Phase = phase
        self._done, self._total = 0, total
        self._progress(phase, 0, total)

    def __call__(self, tokens: int) -> None:
        self._done = min(self._done + tokens * self._shard.size, self._total)
        self._progress(self._phase, self._done, self._total)


def _tokenizer(source: ModelSource) -> Tokenizer:
    from tokenizers import Tokenizer

    with tempfile.TemporaryDirectory() as folder:
        source.write_tokenizer(Path(folder))
        return Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))


def _device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" else name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        line = str(error).strip().splitlines()[0]
        raise EdgeSkipError(f"--device {name} cannot be used here ({line}): try --device cpu") from None
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _statistics(sums: dict[Phase, tuple[Array, Array]]) -> tuple[list[SublayerStatistics], Vectors]:
    """The profile's sublayers and vectors from the sums of each phase; a decode phase without tokens is left out."""
    found = {
        phase: statistics_of(scalars, vectors, phase)
        for phase, (scalars, vectors) in sums.items()
        if phase == "prefill" or scalars[0].all()
    }
    decode = found["decode"][0] if "decode" in found else None
    prefill = found["prefill"][0]
    sublayers = [
        SublayerStatistics(name=str(s), prefill=prefill[s.index], decode=decode[s.index] if decode else None)
        for s in sublayers_of(len(prefill) // 2)
    ]
    return sublayers, vectors_of({phase: (mean_in, mean_out) for phase, (_, mean_in, mean_out) in found.items()})
