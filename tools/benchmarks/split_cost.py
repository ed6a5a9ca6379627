"""What splitting a model at its exit layer costs in llama.cpp: both halves against the whole file, step by step.

    python tools/benchmarks/split_cost.py FIRST.gguf WHOLE.gguf --json split.json

FIRST is the first half (its second half lies beside it), WHOLE the same model in one file. Compared in one process,
in turns, over several rounds, ratios paired by round: the prompt, one token and the verification of 2, 4 and 8 tokens
behind it; a round of self-speculation (so many draft steps with the draft's own head, then one verification) against
as many decode steps of the whole file, which is what it would replace if all were accepted; and the first half with
and without the callback that reads its exit states.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from harness.figures import Spread, Target
from harness.machine import describe
from harness.report import cell, targets_table
from numpy.typing import NDArray
from peer_runtimes import LICENSE

from edgeskip.artifacts.gguf.manifest import GgufManifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file

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
        return Spread.of(a / b for a, b in zip(self.subject_s, self.baseline_s, strict=True))


def split_cost(
    first: Annotated[Path, typer.Argument(help="First half of a pair; the second lies beside it.")],
    whole: Annotated[Path, typer.Argument(help="The same model in one file.")],
    text: Annotated[Path, typer.Option(help="Text whose first tokens are the prompt.")] = LICENSE,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, after one that warms up.")] = 7,
    repeats: Annotated[int, typer.Option(min=1, help="Times a turn, of everything but the prompt.")] = 8,
    threads: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything there.")] = None,
) -> None:
    """Measure both halves of a split model against the whole; a table to stdout, progress to stderr.

    In one process and in turns: the prompt, 1, 2, 4 and 8 tokens behind it, a round of drafting and verifying
    against as many decode steps, and the first half with and without the callback that reads its exit states.
    """
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
        ids = one.encode(text.read_text(encoding="utf-8"), chat=False)[: prompt + max(VERIFIED)]
        if len(ids) < prompt + max(VERIFIED):
            raise EdgeSkipError(f"{text} has only {len(ids)} tokens: give a longer --text or a smaller --prompt")
        plain = LlamaCppEngine(split.first, threads=threads)
        compared = comparisons(split, dense, plain, ids, prompt, repeats)
        measure(compared, rounds)
    targets = [
        Target(f"{c.name}: {c.against}", c.bound, c.ratio, at_least=False) for c in compared if c.bound is not None
    ]
    setting = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "exit_layer": manifest.exit_layer,
        "prompt_tokens": prompt,
        "threads": threads,
        "rounds": rounds,
        "repeats": repeats,
        "machine": describe(),
    }
    if json_file:
        result = {"setting": setting, "comparisons": [as_json(c) for c in compared]}
        replace_file(json_file, (json.dumps(result, indent=1) + "\n").encode())
    print(as_markdown(compared, targets, setting))


def comparisons(
    split: LlamaCppSplitEngine, whole: Engine, plain: Engine, ids: NDArray[np.int64], prompt: int, repeats: int
) -> list[Comparison]:
    """What is measured. `plain` runs the first half without a callback; `ids` [prompt + 8] continue the prompt.

    The prompt's cases come first: they leave every engine with the prompt that the others stand behind.
    """
    head, tail = ids[:prompt], ids[prompt:]

    def at_start(engine: Engine, run: Callable[[], object]) -> Case:
        return Case(engine, run, 0, 1)

    def behind(engine: Engine, run: Callable[[], object]) -> Case:
        return Case(engine, run, prompt, repeats)

    found = [
        Comparison(
            f"prompt of {prompt}",
            "both halves / whole",
            at_start(split, lambda: split.step(head)),
            at_start(whole, lambda: whole.step(head)),
            BOUND,
        ),
        Comparison(
            f"prompt of {prompt}, first half",
            "callback / none",
            at_start(split, lambda: split.draft(head)),
            at_start(plain, lambda: plain.step(head)),
        ),
    ]
    for count in (1, *VERIFIED):
        tokens = tail[:count]
        found.append(
            Comparison(
                "1 token" if count == 1 else f"{count} tokens at once",
                "both halves / whole",
                behind(split, lambda tokens=tokens: split.step(tokens, logits=0)),
                behind(whole, lambda tokens=tokens: whole.step(tokens, logits=0)),
                BOUND,
            )
        )
    for count in (1, *VERIFIED):
        singles = [tail[i : i + 1] for i in range(count)]
        found.append(
            Comparison(
                f"round of {count}: drafted, verified",
                f"/ {count} decode step{'s' if count > 1 else ''} of whole",
                behind(split, lambda singles=singles: ([split.draft(one) for one in singles], split.verify(ids[:0]))),
                behind(whole, lambda singles=singles: [whole.step(one) for one in singles]),
            )
        )
    one = tail[:1]
    found.append(
        Comparison(
            "1 token, first half",
            "callback / none",
            behind(split, lambda: split.draft(one)),
            behind(plain, lambda: plain.step(one)),
        )
    )
    return found


def measure(compared: Sequence[Comparison], rounds: int) -> None:
    """Fills in the seconds of `rounds` rounds after one that warms up; who of a pair is first changes by round."""
    for number in range(rounds + 1):
        print(f"round {number}" if number else "warm-up", file=sys.stderr, flush=True)
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


def as_json(comparison: Comparison) -> dict[str, Any]:
    return {
        "name": comparison.name,
        "against": comparison.against,
        "bound": comparison.bound,
        "ratio": asdict(comparison.ratio),
        "subject_s": comparison.subject_s,
        "baseline_s": comparison.baseline_s,
    }


def as_markdown(compared: Sequence[Comparison], targets: Sequence[Target], setting: dict[str, Any]) -> str:
    """Every comparison, then the bounds."""
    machine = setting["machine"]
    lines = [
        f"exit layer {setting['exit_layer']}, behind {setting['prompt_tokens']} tokens, {setting['threads']} "
        f"threads, medians of {setting['rounds']} interleaved rounds [least – greatest]; {machine['processor']}, "
        f"{machine['usable_cores']} cores",
        "",
        "| | compared | ms | with ms | ratio |",
        "|---|---|---|---|---|",
    ]
    for one in compared:
        milliseconds = (f"{1e3 * statistics.median(seconds):.2f}" for seconds in (one.subject_s, one.baseline_s))
        lines.append(f"| {one.name} | {one.against} | {' | '.join(milliseconds)} | {cell(one.ratio, 3)} |")
    return "\n".join([*lines, "", *targets_table(targets)])


if __name__ == "__main__":
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(split_cost)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
