"""A whole sweep: exports an artifact for each exit layer and vocabulary, measures it, keeps what was measured."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import named_instead
from edgeskip.core.locks import hold
from edgeskip.core.progress import Progress, Steps, silent
from edgeskip.profiles.schema import locate_profile, read_profile
from edgeskip.sweep.exports import Exports
from edgeskip.sweep.run import SweepGrid, SweepLog, SweepPoint, best_of, measure

if TYPE_CHECKING:
    from edgeskip.profiles.schema import Profile


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep measures.

    Attributes:
        model: Where the model is, if not where the profile says.
        target: `onnx` or `gguf`.
        precision: As for an export; None = the target's own default.
        field: Field of .jsonl records that holds the prompt.
        limit: Number of prompts, spread over the file.
        max_tokens: Tokens to generate for each.
        chat_options: Variables of the chat template.
        raw: Continue the prompts, without the chat template.
        threads: None = the physical cores.
        provider: Processor to run on.
    """

    model: str | None = None
    target: str = "onnx"
    precision: str | None = None
    field: str | None = None
    limit: int = 8
    max_tokens: int = 64
    chat_options: Mapping[str, Any] | None = None
    raw: bool = False
    threads: int | None = None
    provider: str = "cpu"

    def __post_init__(self) -> None:
        if self.limit < 1 or self.max_tokens < 2:
            raise EdgeSkipError("--limit must be at least 1 and --max-tokens at least 2")


@dataclass(frozen=True)
class SweepResult:
    """What a sweep found: a point for each setting of the grid."""

    profile: Profile
    path: Path
    points: list[SweepPoint]
    options: SweepOptions
    exports: Exports

    @property
    def best(self) -> SweepPoint:
        """The fastest setting, in tokens/s over plain decoding."""
        return best_of(self.points)

    def write_best(self) -> bool:
        """Write the fastest setting into the profile; return False, and write nothing, if it is a preset."""
        if self.exports.writable:
            self.exports.write_best(self.best, self.options.threads, self.options.provider)
        return self.exports.writable


def sweep(
    profile: str,
    prompts: Path,
    output: Path,
    *,
    exit_layers: tuple[int, ...] | None = None,
    vocabularies: tuple[int | None, ...] = (None, 8192),
    num_speculations: tuple[int, ...] = (1, 2, 4, 8),
    options: SweepOptions | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> SweepResult:
    """Measure early-exit speculation with every setting, and return the points.

    Args:
        profile: Path of the profile, or the name of a preset.
        prompts: .jsonl, a record each, or text, one prompt a file.
        output: Folder; `sweep.json` in it lets an interrupted sweep resume.
        exit_layers: None = those that the profile calibrated.
        vocabularies: Sizes of the draft head's vocabulary; None = all tokens.
        num_speculations: Tokens drafted a round, γ.
        options: How to measure.
        overwrite: Start again if `output` has a sweep.
        progress: Called before every generation.

    Raises:
        EdgeSkipError: If a setting is not possible, before anything is exported or measured.
    """
    from edgeskip.calibration.corpus import read_corpus
    from edgeskip.runtime.session import load
    from edgeskip.runtime.speculation.policy import Speculation

    options = options or SweepOptions()
    path = locate_profile(profile)
    read = read_profile(path)
    layers = tuple(found.layer for found in read.exits) if exit_layers is None else exit_layers
    if not layers:
        raise EdgeSkipError(
            "the profile has no calibrated exits; give --exit-layers, or run  edgeskip calibrate --exits 4,8,12"
        )
    grid = SweepGrid(layers, vocabularies, num_speculations)
    for gamma in grid.num_speculations:
        Speculation("model", gamma)  # raises if it is out of range
    corpus = read_corpus([prompts], options.field)
    texts = list(corpus.documents[:: max(1, len(corpus.documents) // options.limit)][: options.limit])
    exports = Exports(path, read, options.model, options.target, options.precision)
    exports.check(grid)
    settings: dict[str, Any] = {
        "model": read.model.fingerprint, "profile": read.vectors.sha256, "target": options.target,
        "precision": exports.precision, "prompts": corpus.files[0].sha256, "limit": len(texts),
        "max_tokens": options.max_tokens, "raw": options.raw, "threads": options.threads,
        "provider": options.provider, "num_speculations": grid.num_speculations,
    }  # fmt: skip
    if options.chat_options:
        settings["chat_options"] = dict(options.chat_options)
    hold(output)
    output.mkdir(parents=True, exist_ok=True)
    log = SweepLog(output / "sweep.json", settings, overwrite=overwrite)
    todo = list(log.missing(grid))
    steps = Steps(progress, "sweeping", len(todo) * (1 + len(texts) * (1 + len(grid.num_speculations))))
    for layer, vocabulary in todo:
        steps.begin(f"exporting E = {layer}")
        with (
            tempfile.TemporaryDirectory(prefix="edgeskip-sweep-") as scratch,
            named_instead(Path(scratch), Path(f"the artifact of exit layer {layer}")),
        ):
            artifact = exports.export(layer, vocabulary, Path(scratch))
            with load(artifact, provider=options.provider, threads=options.threads) as session:
                chat = False if options.raw else None
                encoded = [session.encode(text, chat=chat, chat_kwargs=options.chat_options or {}) for text in texts]
                step = partial(steps.begin, f"E = {layer}, vocabulary {vocabulary or 'all'}")
                gammas = grid.num_speculations
                log.add(
                    measure(session, layer, vocabulary, gammas, encoded, max_tokens=options.max_tokens, advance=step)
                )
    steps.finish()
    points = [point for point in log.cells if (point.exit_layer, point.draft_vocab) in grid.artifacts]
    return SweepResult(read, path, points, options, exports)
