"""Speculation on real prompts: speed against plain decoding, what is accepted, where time goes, what the loop costs.

    python tools/benchmarks/speculation.py ARTIFACT … --json speculation.json
    python tools/benchmarks/speculation.py ARTIFACT --drafter default,ngram --num-speculations 2,4,auto
    python tools/benchmarks/speculation.py ARTIFACT --data spec_bench.jsonl --prompts 4

Prompts are those of tools/check_speculation.py, or of `--data`, then with figures by category. Each artifact is
loaded once; prompt by prompt every setting has its turn, in an order that is rotated, and ratios to plain decoding are
paired by round. What a round takes, part by part, is noted at the engine while it generates. What the loop itself
costs: right after a generation with a fixed number of drafted tokens its rounds are gone through again by calls of the
engine alone (so many `draft`, one `verify`, `truncate`, behind the same number of tokens); the generation's time over
theirs is what choosing, accepting and writing text add. Wants a quiet machine.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from harness.bare_rounds import bare_seconds, rounds_of
from harness.engine_calls import noted
from harness.machine import cpu_time, describe
from harness.prompts import Prompt, prompts_from, prompts_of
from harness.report import doubts, targets_table
from harness.speculation_figures import Result, Run, Setting, as_markdown, by_category, rows_of, targets_of
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file
from edgeskip.runtime.engines.interface import DraftingEngine
from edgeskip.runtime.speculation.policy import Speculation

if TYPE_CHECKING:
    from edgeskip.runtime.session import Session

PAUSE_S = 0.05
WARM_UP = 8  # tokens
Tokens = NDArray[np.int64]


def bench_speculation(
    artifacts: Annotated[list[Path], typer.Argument(help="Artifact folders or .gguf files.")],
    num_speculations: Annotated[str, typer.Option(help="Tokens drafted a round, comma-separated.")] = "1,2,4,8,auto",
    drafter: Annotated[
        str, typer.Option(help="default, model, ngram, mixed; comma-separated. default: as `edgeskip run` chooses.")
    ] = "default",
    exit_layer: Annotated[
        str | None, typer.Option(help="Exits that draft, comma-separated (default: as `edgeskip run` chooses).")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Prompts from FILE or FILE#FIELD (.jsonl, .tsv, .csv) by the chat template; repeatable."),
    ] = None,
    category: Annotated[
        str, typer.Option(help="Field of --data that tells prompts apart, else the file.")
    ] = "category",
    raw: Annotated[bool, typer.Option("--raw", help="Prompts of --data without the chat template.")] = False,
    prompts: Annotated[
        int, typer.Option(min=1, help="Prompts, half of them code to continue; with --data, of each category.")
    ] = 8,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens to generate, fewer where the text ends.")] = 96,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are over them.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads (default: the physical cores).")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything there, single runs too.")] = None,
) -> None:
    """Measure speculation by every setting against plain decoding of the same artifact; tables to stdout."""
    from edgeskip.runtime.session import load

    exits = exit_layer.split(",") if exit_layer else None
    settings = settings_of(drafter.split(","), num_speculations.split(","), exits)
    chosen = prompts_from(data, prompts, category=category, chat=not raw) if data else read_prompts(prompts)
    setting: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "prompts": [prompt.name for prompt in chosen],
        "tokens": tokens,
        "rounds": rounds,
        "machine": describe(),
    }
    results = []
    for path in artifacts:
        with load(path, threads=threads) as session:
            setting["threads"] = session.engine.threads
            before, begin = cpu_time(os.getpid()), time.perf_counter()
            runs = measure(session, path.name, settings, chosen, tokens, rounds)
            after, seconds = cpu_time(os.getpid()), time.perf_counter() - begin
            others = after.others_since(before, seconds) if before and after else None
            rows, categories = rows_of(settings, runs), by_category(settings, runs)
            results.append(Result(path.name, session.label, seconds, others, rows, categories, runs))
    targets = [target for result in results for target in targets_of(result)]
    if json_file:
        everything = {"setting": setting, "artifacts": [asdict(result) for result in results]}
        everything["targets"] = [{**asdict(target), "met": target.met} for target in targets]
        replace_file(json_file, (json.dumps(everything, indent=1) + "\n").encode())
    doubtful = doubts(result.others_cores for result in results)
    print("\n".join([*as_markdown(results, setting), "", *targets_table(targets), *doubtful]))


def read_prompts(count: int) -> list[Prompt]:
    """Prompts of the folder EDGESKIP_DATA; EdgeSkipError where it has none."""
    folder = Path(os.environ.get("EDGESKIP_DATA", "../shared/data"))
    try:
        return prompts_of(folder, count)
    except OSError as error:
        raise EdgeSkipError(f"{error.filename} cannot be read: set EDGESKIP_DATA to the folder with prompts") from None


def settings_of(drafters: Sequence[str], counts: Sequence[str], exits: Sequence[str] | None = None) -> list[Setting]:
    """Plain decoding first, then every drafter with every exit and count. EdgeSkipError for what is none of these."""
    for what, values in (("--num-speculations", [one for one in counts if one != "auto"]), ("--exit-layer", exits)):
        for value in values or ():
            if not value.isdecimal():
                more = " or auto" if what == "--num-speculations" else ""
                raise EdgeSkipError(f"{what} {value}: give numbers{more}")
    found = [Setting("plain", None)]
    for drafter in drafters:
        who: Any = None if drafter == "default" else drafter
        layers = [None] if drafter == "ngram" or exits is None else [int(layer) for layer in exits]
        for layer in layers:
            for count in counts:
                number: Any = "auto" if count == "auto" else int(count)
                parts = [drafter] if who else []
                parts += [] if layer is None else [f"exit {layer}"]
                parts += ["auto" if count == "auto" else f"γ {count}"]
                found.append(Setting(" ".join(parts), Speculation(who, number, exit_layer=layer)))
    return found


def prompt_ids(session: Session, prompt: Prompt, new_tokens: int) -> Tokens:
    """The prompt's ids, cut to what the context holds besides `new_tokens`."""
    ids = session.encode(prompt.text, chat=prompt.chat and session.chat_template is not None)
    return ids[: session.context_length - new_tokens]


def measure(
    session: Session, artifact: str, settings: Sequence[Setting], prompts: Sequence[Prompt], tokens: int, rounds: int,
    tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> list[Run]:  # fmt: skip
    """All runs, round by round; the first prompt warms every setting up before them."""
    ids = [prompt_ids(session, prompt, tokens) for prompt in prompts]
    for setting in settings:
        run_once(session, setting, 0, prompts[0], ids[0], min(WARM_UP, tokens))
    runs = []
    for number in range(1, rounds + 1):
        tell(f"{artifact}, round {number} of {rounds}")
        for at, prompt in enumerate(prompts):
            shift = (number * len(prompts) + at) % len(settings)
            made: dict[str, tuple[Run, tuple[int, ...]]] = {}
            for setting in [*settings[shift:], *settings[:shift]]:
                time.sleep(PAUSE_S)
                made[setting.name] = run_once(session, setting, number, prompt, ids[at], tokens)
            plain = made[settings[0].name][1]
            runs += [replace(run, same=text == plain) if run.speculation else run for run, text in made.values()]
    return runs


def run_once(
    session: Session, setting: Setting, number: int, prompt: Prompt, ids: Tokens, tokens: int
) -> tuple[Run, tuple[int, ...]]:
    """One generation: its figures and its tokens."""
    policy = setting.policy
    with noted(session.engine, len(ids)) as notes:
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
        asdict(found) if found else None, loop_s, bare_s, prompt.category, notes.calls,
    )  # fmt: skip
    return run, generation.tokens


if __name__ == "__main__":
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(bench_speculation)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
