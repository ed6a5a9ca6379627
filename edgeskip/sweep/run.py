"""Measures early-exit speculation over exit layer × draft vocabulary × γ on this device, against plain decoding of the
same artifact. Exporting and showing are others' work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeskip.core.bounds import Count, Speed, dataclass_from
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file
from edgeskip.core.json_file import parse_json

if TYPE_CHECKING:
    from edgeskip.runtime.options import Prompt
    from edgeskip.runtime.session import Session


@dataclass(frozen=True)
class SweepGrid:
    """What is tried; a vocabulary of None = the whole one."""

    exit_layers: tuple[int, ...]
    vocabularies: tuple[int | None, ...]
    num_speculations: tuple[int, ...]

    @property
    def artifacts(self) -> list[tuple[int, int | None]]:
        """Exit layer and vocabulary of every artifact to export."""
        return [(layer, vocabulary) for vocabulary in self.vocabularies for layer in self.exit_layers]


@dataclass(frozen=True)
class SweepPoint:
    """One setting over all prompts, greedy."""

    exit_layer: Count
    draft_vocab: Count | None
    num_speculations: Count
    prompts: Count
    tokens: Count
    tokens_per_s: Speed
    plain_tokens_per_s: Speed  # the same artifact, the same prompts, in turn with it
    drafted: Count
    accepted: Count
    identical: Count  # prompts whose text is that of plain decoding, token by token

    @property
    def speedup(self) -> float:
        return self.tokens_per_s / self.plain_tokens_per_s

    @property
    def faster(self) -> bool:
        """Whether it is faster than plain decoding, as the table prints it."""
        return round(self.speedup, 2) > 1

    @property
    def acceptance(self) -> float:
        return self.accepted / self.drafted if self.drafted else 0.0


def measure(
    session: Session,
    exit_layer: int,
    vocabulary: int | None,
    num_speculations: Sequence[int],
    prompts: Sequence[Prompt],
    *,
    max_tokens: int,
    advance: Callable[[], None] = lambda: None,
) -> list[SweepPoint]:
    """Return the cells of one artifact, one for each γ. Prompt by prompt all settings take turns, so that a busy
    moment of the machine hits all of them. `advance` is called after every generation.
    """
    from edgeskip.runtime.speculation.policy import Speculation

    sums = {gamma: [0.0] * 5 for gamma in (0, *num_speculations)}  # 0 = plain
    for prompt in prompts:
        texts: dict[int, tuple[int, ...]] = {}
        for gamma, total in sums.items():
            generation = session.generate(
                prompt,
                max_tokens=max_tokens,
                strategy="speculative" if gamma else "plain",
                speculation=Speculation("model", gamma or 1),
            )
            texts[gamma] = generation.tokens
            counts = generation.stats.speculation
            total[0] += len(generation.tokens) - (generation.finish_reason != "eos")
            total[1] += generation.stats.decode_s
            total[2] += counts.drafted if counts else 0
            total[3] += counts.accepted if counts else 0
            total[4] += generation.tokens == texts[0]
            advance()
    if not all(total[0] for total in sums.values()):
        raise EdgeSkipError("no prompt gave more than one token: choose other --prompts or more --max-tokens")
    return [
        SweepPoint(
            exit_layer,
            vocabulary,
            gamma,
            prompts=len(prompts),
            tokens=int(sums[gamma][0]),
            tokens_per_s=sums[gamma][0] / sums[gamma][1],
            plain_tokens_per_s=sums[0][0] / sums[0][1],
            drafted=int(sums[gamma][2]),
            accepted=int(sums[gamma][3]),
            identical=int(sums[gamma][4]),
        )
        for gamma in num_speculations
    ]


def best_of(cells: Sequence[SweepPoint]) -> SweepPoint:
    """Return the fastest setting in tokens/s over plain decoding."""
    return max(cells, key=lambda cell: cell.speedup)


class SweepLog:
    """The cells measured so far, in a JSON file that is replaced after every artifact: an interrupted sweep goes on."""

    def __init__(self, path: Path, settings: dict[str, Any], *, overwrite: bool) -> None:
        self._path = path
        # As JSON gives it back: tuples are lists there.
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.cells: list[SweepPoint] = []
        if path.exists() and not overwrite:
            self._resume()

    def missing(self, grid: SweepGrid) -> Iterator[tuple[int, int | None]]:
        """Artifacts of the grid that have no cells yet."""
        known = {(cell.exit_layer, cell.draft_vocab) for cell in self.cells}
        return (artifact for artifact in grid.artifacts if artifact not in known)

    def add(self, cells: Sequence[SweepPoint]) -> None:
        self.cells += cells
        content = {"settings": self._settings, "cells": [asdict(cell) for cell in self.cells]}
        replace_file(self._path, (json.dumps(content, indent=2) + "\n").encode())

    def _resume(self) -> None:
        try:
            content = parse_json(self._path.read_bytes())
            before, cells = _parts(content)
        except ValueError as error:
            raise EdgeSkipError(
                f"{self._path} is not the file of a sweep ({error}); choose another -o or add --overwrite"
            ) from None
        if before != self._settings:
            keys = [name for name in {**before, **self._settings} if before.get(name) != self._settings.get(name)]
            names = [f"--{name.replace('_', '-')}" for name in keys]  # every setting is an option
            raise EdgeSkipError(
                f"{self._path} is of a sweep with another {', '.join(names)}: choose another -o or add --overwrite"
            )
        self.cells = cells


def _parts(content: Any) -> tuple[dict[str, Any], list[SweepPoint]]:
    """Return the settings and cells of a sweep's file; ValueError if it is none."""
    if not (isinstance(content, dict) and content.keys() == {"settings", "cells"}):
        raise ValueError("the fields settings and cells are missing")
    before, cells = content["settings"], content["cells"]
    if not (isinstance(before, dict) and isinstance(cells, list)):
        raise ValueError("settings is not an object, or cells is not a list")
    return before, [dataclass_from(SweepPoint, cell) for cell in cells]
