"""What `--data` asks for and the examples it gives: files, the model's own continuations, and what is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeskip.core.errors import EdgeSkipError
from edgeskip.profiles.schema import CorpusFile
from edgeskip.training.batches import split_off
from edgeskip.training.config import SelfDataConfig
from edgeskip.training.examples import Encoder, Example, read_examples, split_reference
from edgeskip.training.loop import Advance
from edgeskip.training.run_folder import open_folder

if TYPE_CHECKING:
    from accelerate import Accelerator

    from edgeskip.models.source import ModelSource

SELF = "self"

_CONTEXT = 512


@dataclass(frozen=True)
class Examples:
    """What a run learns from and what it is measured on, by one encoder; `files` say where it comes from.

    `too_long`: file → how many of its pairs did not fit and are in neither.
    """

    encoder: Encoder
    learned: list[Example]
    held_out: list[Example]
    files: tuple[CorpusFile, ...]
    too_long: dict[str, int]


@dataclass(frozen=True)
class Data:
    """`sources`: `self` and files (`FILE`, `FILE#FIELD`, `FILE#PROMPT,RESPONSE`).

    `context`: tokens of an example at most (None = 512, or what the model holds). `validation`: files to measure on;
    without them the share `held_out` of the examples is kept back, drawn by `seed`.
    """

    sources: tuple[str, ...]
    context: int | None
    validation: tuple[str, ...] = ()
    held_out: float = 0.02
    generation: SelfDataConfig = field(default_factory=SelfDataConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sources:
            raise EdgeSkipError("--data is missing: name files, or self for what the model writes itself")
        if self.context is not None and self.context < 8:
            raise EdgeSkipError(f"--context {self.context} is too short: give at least 8")
        if not 0 < self.held_out < 1:
            raise EdgeSkipError(f"--held-out {self.held_out} is not a share: choose between 0 and 1")

    def examples(
        self,
        source: ModelSource,
        folder: Path,
        settings: dict[str, Any],
        accelerator: Accelerator,
        *,
        overwrite: bool,
        inputs: Sequence[str | Path] = (),
        advance: Advance = lambda what, done, total: None,
    ) -> Examples:
        """Read the files, makes `folder` the run's (which the main process does) and let the model write.

        `inputs`: what else the run reads, which replacing the folder must not remove. EdgeSkipError as
        `read_examples` and `open_folder` raise it, or if nothing can be held out.
        """
        from edgeskip.training.self_data import SELF_FILE, write_self_data

        encoder = Encoder(source)
        positions = source.decoder.config.max_positions
        if self.context is not None and self.context > positions:
            raise EdgeSkipError(f"--context {self.context} is longer than the model's {positions} positions")
        context = min(_CONTEXT, positions) if self.context is None else self.context
        files = [name for name in self.sources if name != SELF]
        too_long: dict[str, int] = {}

        def count(name: str, pairs: int) -> None:
            too_long[name] = too_long.get(name, 0) + pairs

        read = partial(read_examples, encoder=encoder, context=context, too_long=count)
        learned, corpus = read(files) if files else ([], ())
        held, measured = read(self.validation) if self.validation else ([], ())
        if not held and SELF not in self.sources:
            _refuse_one(learned)
        if accelerator.is_main_process:
            texts = (*files, *self.validation, *self.generation.prompts)
            kept = [Path(source.reference), source.path, *map(Path, inputs), *(split_reference(t)[0] for t in texts)]
            open_folder(folder, settings, overwrite=overwrite, inputs=[path for path in kept if path.exists()])
        accelerator.wait_for_everyone()
        if SELF in self.sources:
            file = folder / SELF_FILE
            if accelerator.is_main_process:
                write_self_data(
                    source,
                    encoder,
                    self.generation,
                    file,
                    context=context,
                    seed=self.seed,
                    advance=partial(advance, "answers"),
                )
            accelerator.wait_for_everyone()
            written, (record,) = read([str(file)])
            learned, corpus = learned + written, (*corpus, record)
        if not held:
            _refuse_one(learned)
            learned, held = split_off(learned, self.held_out, self.seed)
        return Examples(encoder, learned, held, corpus + measured, too_long)


def _refuse_one(examples: Sequence[Example]) -> None:
    if len(examples) < 2:
        raise EdgeSkipError("the data hold one example only, and one must be held out: give more, or --validation")
