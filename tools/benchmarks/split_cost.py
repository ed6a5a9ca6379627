"""What splitting a model at its exit layer costs in llama.cpp: both halves against the whole file, step by step.

    python tools/benchmarks/split_cost.py FIRST.gguf WHOLE.gguf --json split.json

Makes a figure of docs/results/gguf.md. FIRST is the first half (its second half lies beside it), WHOLE the same model
in one file. Compared in one process, in turns, over several rounds, ratios paired by round: the prompt, one token and
the verification of 2, 4 and 8 tokens behind it; a round of self-speculation (so many draft steps with the draft's own
head, then one verification) against as many decode steps of the whole file, which is what it would replace if all were
accepted; and the first half with and without the callback that reads its exit states.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from harness.command import LICENSE, JsonFile, PromptText, Rounds, Threads, main, prompt_ids
from harness.processes import show_progress
from harness.results import Results, Spread, Table, Target
from numpy.typing import NDArray

from edgeskip.artifacts.gguf.manifest import GgufManifest
from edgeskip.core.errors import EdgeSkipError

if TYPE_CHECKING:
    from edgeskip.runtime.engines.interface import Engine
    from edgeskip.runtime.engines.llamacpp.split import LlamaCppSplitEngine

VERIFIED = (2, 4, 8)  # tokens
BOUND = 1.1  # most that both halves may take, of the whole file's time
PAUSE_S = 0.05


@dataclass(frozen=True)
class Case:
    """One way to do a step: `run` on an `engine` that holds `depth` tokens; `repeats` times a turn."""

    engine: Engine
    run: Callable[[], object]
    depth: int
    repeats: int


@dataclass(frozen=True)
class Comparison:
    """`subject` against `baseline`, and the seconds of each round."""

    name: str
    against: str
    subject: Case
    baseline: Case
    bound: float | None = None
    subject_s: list[float] = field(default_factory=list)
    baseline_s: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> Spread:
        return Spread.of_ratios(self.subject_s, self.baseline_s)


def split_cost(
    first: Annotated[Path, typer.Argument(help="First half of a pair; the second lies beside it.")],
    whole: Annotated[Path, typer.Argument(help="The same model in one file.")],
    text: PromptText = LICENSE,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 512,
    rounds: Rounds = 7,
    repeats: Annotated[int, typer.Option(min=1, help="Times a turn, of everything but the prompt.")] = 8,
    threads: Threads = 2,
    json_file: JsonFile = None,
) -> None:
    """Measure both halves of a split model against the whole; a table to stdout, progress to stderr."""
    import edgeskip
    from edgeskip.runtime.engines.llamacpp.engine import LlamaCppEngine
    from edgeskip.runtime.engines.llamacpp.split import LlamaCppSplitEngine

    with edgeskip.load(first, threads=threads) as halves, edgeskip.load(whole, threads=threads) as one:
        split, dense = halves.engine, one.engine
        manifest = halves.manifest
        if not isinstance(split, LlamaCppSplitEngine) or not isinstance(manifest, GgufManifest):
            raise EdgeSkipError(
                f"{first} is no first half of a pair: make one with  edgeskip export --draft early-exit"
            )
        if split.vocab_size != dense.vocab_size:
            raise EdgeSkipError(f"{first} and {whole} are not the same model")
        ids = np.array(prompt_ids(whole, text, prompt + max(VERIFIED)))
        plain = LlamaCppEngine(split.first, threads=threads)
        compared = comparisons(split, dense, plain, ids, prompt, repeats)
        measure(compared, rounds)
    Results(
        name="split_cost",
        setting={
            "exit_layer": manifest.exit_layer, "prompt_tokens": prompt, "threads": threads, "rounds": rounds,
            "repeats": repeats,
        },
        tables=[table_of(compared)],
        targets=targets_of(compared),
        data=[
            {
                "name": c.name, "against": c.against, "ratio": c.ratio, "subject_s": c.subject_s,
                "baseline_s": c.baseline_s,
            }
            for c in compared
        ],
    ).publish(json_file)  # fmt: skip


def comparisons(
    split: LlamaCppSplitEngine, whole: Engine, plain: Engine, ids: NDArray[np.int64], prompt: int, repeats: int
) -> list[Comparison]:
    """Return what is measured. `plain` runs the first half without a callback; `ids` [prompt + 8] continue the prompt.

    The prompt's cases come first: they leave every engine with the prompt that the others stand behind.
    """
    head, tail = ids[:prompt], ids[prompt:]
    both, callback = "both halves / whole", "callback / none"

    def at_start(engine: Engine, run: Callable[[], object]) -> Case:
        return Case(engine, run, 0, 1)

    def behind(engine: Engine, run: Callable[[], object]) -> Case:
        return Case(engine, run, prompt, repeats)

    def at_once(tokens: NDArray[np.int64]) -> Comparison:
        name = "1 token" if len(tokens) == 1 else f"{len(tokens)} tokens at once"
        subject = behind(split, lambda: split.step(tokens, logits=0))
        return Comparison(name, both, subject, behind(whole, lambda: whole.step(tokens, logits=0)), BOUND)

    def one_by_one(tokens: NDArray[np.int64]) -> Comparison:
        count, singles = len(tokens), tokens.reshape(-1, 1)
        against = f"/ {count} decode step{'s' if count > 1 else ''} of whole"
        subject = behind(split, lambda: ([split.draft(one) for one in singles], split.verify(ids[:0])))
        baseline = behind(whole, lambda: [whole.step(one) for one in singles])
        return Comparison(f"round of {count}: drafted, verified", against, subject, baseline)

    drafted = at_start(split, lambda: split.draft(head)), at_start(plain, lambda: plain.step(head))
    one = tail[:1]
    return [
        Comparison(
            f"prompt of {prompt}", both, at_start(split, lambda: split.step(head)),
            at_start(whole, lambda: whole.step(head)), BOUND,
        ),
        Comparison(f"prompt of {prompt}, first half", callback, *drafted),
        *(at_once(tail[:count]) for count in (1, *VERIFIED)),
        *(one_by_one(tail[:count]) for count in (1, *VERIFIED)),
        Comparison(
            "1 token, first half", callback, behind(split, lambda: split.draft(one)),
            behind(plain, lambda: plain.step(one)),
        ),
    ]  # fmt: skip


def measure(compared: Sequence[Comparison], rounds: int) -> None:
    """Fill in the seconds of `rounds` rounds after one that warms up; who of a pair is first changes by round."""
    for number in range(rounds + 1):
        show_progress(f"round {number}" if number else "warm-up")
        for comparison in compared:
            turns = [(comparison.subject, comparison.subject_s), (comparison.baseline, comparison.baseline_s)]
            for case, seconds in turns if number % 2 else reversed(turns):
                time.sleep(PAUSE_S)
                taken = timed(case)
                if number:
                    seconds.append(taken)


def timed(case: Case) -> float:
    """Median seconds of one turn; going back to the case's depth does not count."""
    times = []
    for _ in range(case.repeats):
        case.engine.truncate(case.depth)
        begin = time.perf_counter()
        case.run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def targets_of(compared: Sequence[Comparison]) -> list[Target]:
    bound = [(one, one.bound) for one in compared if one.bound is not None]
    return [Target(f"{one.name}: {one.against}", most, one.ratio, at_least=False) for one, most in bound]


def table_of(compared: Sequence[Comparison]) -> Table:
    lines = []
    for one in compared:
        milliseconds = [f"{1e3 * statistics.median(seconds):.2f}" for seconds in (one.subject_s, one.baseline_s)]
        lines.append([one.name, one.against, *milliseconds, one.ratio.text(3)])
    return Table("Both halves of a pair against the whole file", ["", "compared", "ms", "with ms", "ratio"], lines)


if __name__ == "__main__":
    main(split_cost)
