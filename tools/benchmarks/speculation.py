"""Speculation on real prompts: speed against plain decoding, what is accepted, where time goes, equal texts.

    python tools/benchmarks/speculation.py ARTIFACT … --json speculation.json
    python tools/benchmarks/speculation.py ARTIFACT --drafter default,ngram --num-speculations 2,4,auto
    python tools/benchmarks/speculation.py ARTIFACT --data spec_bench.jsonl --prompts 4
    python tools/benchmarks/speculation.py ARTIFACT --drafter model,ngram --prompts 100 --rounds 1 --check

Makes the tables of docs/results/speculation.md and early-exit.md. Prompts are half chat, half code of the data folder,
or of `--data`, then with figures by category. Each artifact is loaded once; prompt by prompt every setting has its
turn, in an order that is rotated, and ratios to plain decoding are paired by round. What a round takes, part by part,
is noted at the engine while it generates. What the loop itself costs: right after a generation with a fixed number of
drafted tokens its rounds are gone through again by calls of the engine alone (so many `draft`, one `verify`,
`truncate`, behind the same number of tokens); the generation's time over theirs is what choosing, accepting and writing
text add.

A text that differs from plain decoding's is listed with the position and the margin between the two likeliest tokens
there: batched verification and one-token steps round differently, so a near tie may fall either way. With --check a
difference without a near tie is exit code 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from harness.command import JsonFile, Rounds, main, words
from harness.processes import others_cores, show_progress
from harness.prompts import Prompt, prompts_from, read_prompts
from harness.results import Results
from harness.rounds import bare_seconds, rounds_of, timed_calls
from harness.speculation_figures import Result, Run, Setting, by_category, rows_of, tables_of, targets_of
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.comparison import NEAR_TIE, find_difference
from edgeskip.runtime.engines.interface import DraftingEngine
from edgeskip.runtime.speculation.policy import Speculation

if TYPE_CHECKING:
    from edgeskip.runtime.session import Session

PAUSE_S = 0.05
WARM_UP = 8  # tokens
Tokens = NDArray[np.int64]


def bench_speculation(
    artifacts: Annotated[list[Path], typer.Argument(help="Artifact folders or .gguf files.")],
    num_speculations: Annotated[str, typer.Option(help="Tokens drafted a round, by comma.")] = "1,2,4,8,auto",
    drafter: Annotated[
        str, typer.Option(help="default, model, ngram, mixed; by comma. default: as `edgeskip run` chooses.")
    ] = "default",
    exit_layer: Annotated[str, typer.Option(help="Exits that draft, by comma (default: as `edgeskip run`).")] = "",
    data: Annotated[
        list[str] | None,
        typer.Option(help="Prompts from FILE or FILE#FIELD (.jsonl, .tsv, .csv) by the chat template; repeatable."),
    ] = None,
    category: Annotated[str, typer.Option(help="Field of --data to group by, else the file.")] = "category",
    raw: Annotated[bool, typer.Option("--raw", help="Prompts of --data without the chat template.")] = False,
    prompts: Annotated[
        int, typer.Option(min=1, help="Prompts, half of them code to continue; with --data, of each category.")
    ] = 8,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens to generate, fewer if the text ends.")] = 96,
    rounds: Rounds = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads (default: the physical cores).")] = None,
    check: Annotated[bool, typer.Option("--check", help="Fail if a text differs without a near tie.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Measure speculation by every setting against plain decoding of the same artifact; tables to stdout."""
    from edgeskip.runtime.session import load

    settings = settings_of(drafter.split(","), num_speculations.split(","), words(exit_layer))
    chosen = prompts_from(data, prompts, category=category, chat=not raw) if data else read_prompts(prompts)
    results = []
    for path in artifacts:
        with load(path, threads=threads) as session, others_cores() as others:
            threads = session.engine.threads
            runs = measure(session, path.name, settings, chosen, tokens, rounds)
        rows, categories = rows_of(settings, runs), by_category(settings, runs)
        results.append(Result(path.name, session.label, others[0], rows, categories, runs))
    parted = [(one.artifact, run) for one in results for run in one.runs if run.position is not None]
    Results(
        name="speculation",
        setting={
            "prompts": len(chosen), "tokens": tokens, "rounds": rounds, "threads": threads,
            "prompt_names": [prompt.name for prompt in chosen],
        },
        tables=[table for result in results for table in tables_of(result)],
        targets=[target for result in results for target in targets_of(result)],
        data=results,
        notes=[
            f"{artifact}, {run.setting}, {run.prompt}: token {run.position}, margin {run.margin:.2g}"
            for artifact, run in parted
        ],
        others_cores=[result.others_cores for result in results],
    ).publish(json_file)  # fmt: skip
    if check and any(run.margin is not None and run.margin >= NEAR_TIE for _, run in parted):
        raise typer.Exit(1)


def settings_of(drafters: Sequence[str], counts: Sequence[str], exits: Sequence[str] = ()) -> list[Setting]:
    """Plain decoding first, then every drafter with every exit and count. EdgeSkipError for what is none of these."""
    for what, values in (("--num-speculations", [one for one in counts if one != "auto"]), ("--exit-layer", exits)):
        for value in values:
            if not value.isdecimal():
                more = " or auto" if what == "--num-speculations" else ""
                raise EdgeSkipError(f"{what} {value}: give numbers{more}")
    found = [Setting("plain", None)]
    for drafter in drafters:
        who: Any = None if drafter == "default" else drafter
        for layer in [None] if drafter == "ngram" or not exits else map(int, exits):
            for count in counts:
                number: Any = "auto" if count == "auto" else int(count)
                parts = [drafter] if who else []
                parts += [] if layer is None else [f"exit {layer}"]
                parts += ["auto" if count == "auto" else f"γ {count}"]
                found.append(Setting(" ".join(parts), Speculation(who, number, exit_layer=layer)))
    return found


def measure(
    session: Session, artifact: str, settings: Sequence[Setting], prompts: Sequence[Prompt], tokens: int, rounds: int,
    report: Callable[[str], None] = show_progress,
) -> list[Run]:  # fmt: skip
    """Return all runs, round by round; the first prompt warms every setting up before them."""
    ids = [prompt.ids(session, tokens) for prompt in prompts]
    for setting in settings:
        run_once(session, setting, 0, prompts[0], ids[0], min(WARM_UP, tokens))
    runs = []
    for number in range(1, rounds + 1):
        report(f"{artifact}, round {number} of {rounds}")
        for at, prompt in enumerate(prompts):
            shift = (number * len(prompts) + at) % len(settings)
            made: dict[str, tuple[Run, tuple[int, ...]]] = {}
            for setting in [*settings[shift:], *settings[:shift]]:
                time.sleep(PAUSE_S)
                made[setting.name] = run_once(session, setting, number, prompt, ids[at], tokens)
            plain = made[settings[0].name][1]
            runs += [compared(session, run, ids[at], plain, text) for run, text in made.values()]
    return runs


def compared(session: Session, run: Run, ids: Tokens, plain: tuple[int, ...], text: tuple[int, ...]) -> Run:
    """Return the run with what its tokens share with plain decoding's."""
    if run.speculation is None or text == plain:
        return replace(run, same=True if run.speculation else None)
    found = find_difference(session, ids, plain, text)
    assert found is not None
    return replace(run, same=False, position=found.position, margin=found.margin)


def run_once(
    session: Session, setting: Setting, number: int, prompt: Prompt, ids: Tokens, tokens: int
) -> tuple[Run, tuple[int, ...]]:
    """One generation: its figures and its tokens."""
    policy = setting.policy
    with timed_calls(session.engine, len(ids)) as times:
        if policy is None:
            generation = session.generate(ids, max_tokens=tokens, strategy="plain")
        else:
            generation = session.generate(ids, max_tokens=tokens, strategy="speculative", speculation=policy)
    stats = generation.stats
    steps = round(stats.decode_s * stats.decode_tokens_per_s)
    found = stats.speculation
    loop_s = bare_s = None
    engine = session.engine
    fixed = policy is not None and policy.drafter in (None, "model") and not policy.auto
    if policy and fixed and found and found.rounds and isinstance(engine, DraftingEngine):
        rounds = rounds_of(generation, policy.limit, tokens)
        if (len(rounds), sum(drafted for drafted, _ in rounds)) == (found.rounds, found.drafted):
            layers = [draft.exit_layer for draft in session.drafts]
            which = 0 if policy.exit_layer is None else layers.index(policy.exit_layer)
            loop_s = stats.decode_s - found.plain_s
            bare_s = bare_seconds(engine, ids, rounds, len(ids) + tokens, which)
    run = Run(
        setting.name, number, prompt.name, len(generation.tokens), steps, stats.decode_s,
        asdict(found) if found else None, loop_s, bare_s, prompt.category, times.calls,
    )  # fmt: skip
    return run, generation.tokens


if __name__ == "__main__":
    main(bench_speculation)
