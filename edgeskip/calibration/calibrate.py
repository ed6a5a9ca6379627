"""Calibration of a model over a corpus: from a model source and settings to a profile without a plan."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING

from edgeskip.calibration.accumulators import statistics_of, vectors_of
from edgeskip.calibration.config import CalibrationConfig
from edgeskip.calibration.corpus import Corpus, check_ids, cut, ids_of, prompts_from, start_tokens
from edgeskip.calibration.distributed import Shard, joined
from edgeskip.calibration.exits import HELD_OUT, ExitProbe, roles_of
from edgeskip.calibration.measure import measure_decode, measure_prefill
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.progress import Progress, ProgressEvent, silent
from edgeskip.core.sublayers import sublayers_of
from edgeskip.core.version import __version__
from edgeskip.models.location import location_for
from edgeskip.profiles.schema import (
    CalibrationRecord,
    ExitStatistics,
    Phase,
    Profile,
    SideFiles,
    SublayerStatistics,
    model_at,
)
from edgeskip.profiles.vectors import Vectors, pack_vectors

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from edgeskip.calibration.accumulators import PhaseSums
    from edgeskip.models.source import ModelSource

    Array = NDArray[np.float64]

PROMPT_TOKENS = 128  # length of the prompts cut from a corpus, at most
CONTINUATION = 64  # tokens measured after each of them, at most


def calibrate(
    source: ModelSource,
    corpus: Corpus,
    settings: CalibrationConfig,
    path: Path,
    *,
    name: str | None = None,
    progress: Progress = silent,
) -> Profile:
    """Measure `source` over `corpus`: return a profile without a plan, not saved, carrying its vectors. `path` is where
    it is going to be.

    Runs the torch model once over the corpus' windows (prefill) and over its own greedy continuations of prompts
    (decode); exits are fitted to the prefill passes over most windows and measured on the others. Under torchrun the
    processes share the work, and each gets the result. Writes nothing.

    Raises:
        EdgeSkipError: if the corpus is shorter than a window (two with exits), the model does not have the context or
            an exit layer, the device cannot be used, or statistics overflow.
    """
    from edgeskip.models.torch_reference.load import load_torch_model

    run = _Run(source, corpus, settings, progress)
    device = _device(settings.device)
    with joined(device) as shard:
        import torch

        model = load_torch_model(source, dtype=getattr(torch, settings.dtype), device=str(device))
        sums = run.continued(model, shard) if corpus.continued else run.read(model, shard)
    sublayers, vectors = _statistics({phase: sums[phase].arrays() for phase in sums})
    vectors = replace(vectors, exit_maps=run.exit_maps, token_counts=run.token_counts())
    record = model_at(source.record(), path)
    vectors_record, packed = pack_vectors(vectors, path)
    profile = Profile(
        model=record if name is None else record.model_copy(update={"name": name}),
        model_location=location_for(source, path),
        calibration=run.record(),
        sublayers=sublayers,
        vectors=vectors_record,
        exits=run.exits,
    )
    return profile.with_files(SideFiles(path.absolute(), False, packed, source.stored_lora))


class _Run:
    """One calibration: the text is cut and checked before the model is loaded, then both phases are measured."""

    def __init__(self, source: ModelSource, corpus: Corpus, settings: CalibrationConfig, progress: Progress) -> None:
        self._corpus, self._settings, self._progress = corpus, settings, progress
        config = source.decoder.config
        settings.check_exits(config.num_blocks)
        self.exits: list[ExitStatistics] = []
        self.exit_maps: dict[int, NDArray[np.float32]] = {}
        self._positions, self._vocab_size = config.max_positions, config.vocab_size
        self._context = settings.context_for(self._positions)
        self._ends = end_tokens_of(source)
        tokenizer = source.encoder()
        self._start = start_tokens(tokenizer)
        if corpus.continued:
            self._prompts = [tokenizer.encode(prompt).ids for prompt in corpus.documents]
            check_ids([token for prompt in self._prompts for token in prompt], self._vocab_size, tokenizer)
        else:
            self._ids = ids_of(corpus, tokenizer)
            check_ids([*self._start, *self._ids], self._vocab_size, tokenizer)
            self._windows = self._cut()
            self._roles(self._windows)

    def read(self, model: PreTrainedModel, shard: Shard) -> dict[Phase, PhaseSums]:
        """Prefill over the corpus' text, decode after pieces of it."""
        sums: dict[Phase, PhaseSums] = {"prefill": self._prefill(model, shard, self._windows)}
        longest, wanted = min(CONTINUATION, self._positions - 1), self._settings.decode_tokens
        count = math.ceil(wanted / longest)
        new_tokens = math.ceil(wanted / count) if count else longest  # as many as were asked for, not whole prompts
        prompts = prompts_from(
            self._windows,
            count=count,
            length=min(PROMPT_TOKENS, self._context, self._positions - new_tokens),
            seed=self._settings.seed,
        )
        if prompts:
            sums["decode"], _ = self._decode(model, shard, prompts, new_tokens)
        return sums

    def continued(self, model: PreTrainedModel, shard: Shard) -> dict[Phase, PhaseSums]:
        """Decode after the corpus' prompts, then prefill over the prompts and what was written."""
        room = self._positions - max(map(len, self._prompts)) - 1
        new_tokens = min(math.ceil(self._settings.tokens / len(self._prompts)), room)
        decode, rows = self._decode(model, shard, self._prompts, new_tokens)
        both = zip(self._prompts, rows, strict=True)
        self._ids = [i for prompt, row in both for i in prompt[len(self._start) :] + row]
        return {"prefill": self._prefill(model, shard, self._cut()), "decode": decode}

    def token_counts(self) -> NDArray[np.int64]:
        """Return how often the whole corpus, of which `--tokens` may read a part, has each token [vocab_size]."""
        import numpy as np

        return np.bincount(np.asarray(self._ids, np.int64), minlength=self._vocab_size)

    def record(self) -> CalibrationRecord:
        return CalibrationRecord(
            corpus=list(self._corpus.files),
            field=self._corpus.field,
            continued=self._corpus.continued,
            context=self._context,
            seed=self._settings.seed,
            dtype=self._settings.dtype,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions={
                "edgeskip": __version__,
                "python": python_version(),
                **{package: version(package) for package in ("torch", "transformers", "tokenizers")},
            },
        )

    def _cut(self) -> list[list[int]]:
        settings = self._settings
        return cut(self._ids, self._start, context=self._context, tokens=settings.tokens, seed=settings.seed)

    def _roles(self, windows: list[list[int]]) -> list[int]:
        return roles_of(len(windows), self._context) if self._settings.exits else []

    def _prefill(self, model: PreTrainedModel, shard: Shard, windows: list[list[int]]) -> PhaseSums:
        roles = self._roles(windows)
        probe = ExitProbe(model, self._settings.exits, roles) if roles else None
        advance = self._advance("prefill", sum(map(len, windows)), shard)
        sums = measure_prefill(model, windows, shard, advance, probe)
        if probe:
            advance = self._advance("exits", roles.count(HELD_OUT) * self._context, shard)
            self.exits, self.exit_maps = probe.finish(shard, advance)
        return sums

    def _decode(
        self, model: PreTrainedModel, shard: Shard, prompts: list[list[int]], new_tokens: int
    ) -> tuple[PhaseSums, list[list[int]]]:
        advance = self._advance("decode", len(prompts) * new_tokens, shard)
        return measure_decode(model, prompts, shard, advance, new_tokens=new_tokens, end_tokens=self._ends)

    def _advance(self, phase: str, total: int, shard: Shard) -> Callable[[int], None]:
        """Turn the tokens this process has done into progress of the whole."""
        done = 0

        def advance(tokens: int) -> None:
            nonlocal done
            done = min(done + tokens * shard.size, total)
            self._progress(ProgressEvent(phase, done, total, "tokens"))

        advance(0)
        return advance


def end_tokens_of(source: ModelSource) -> frozenset[int]:
    """Return ids that end a text, by the model's config, generation config and tokenizer together."""
    return frozenset(source.end_tokens)


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
    """Return the profile's sublayers and vectors from the sums of each phase.

    A decode phase without tokens is left out.
    """
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
