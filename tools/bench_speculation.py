"""Speculation on real prompts: speed against plain decoding, what is accepted, where time goes, what the loop costs.

    python tools/bench_speculation.py ARTIFACT … --json speculation.json
    python tools/bench_speculation.py ARTIFACT --drafter default,ngram --num-speculations 2,4,auto

Prompts are those of tools/speculation_equality.py. Each artifact is loaded once; prompt by prompt every setting has its
turn, in an order that is rotated, and ratios to plain decoding are paired by round. What the loop itself costs: right
after a generation with a fixed number of drafted tokens its rounds are gone through again by calls of the engine alone
(so many `draft`, one `verify`, `truncate`, behind the same number of tokens); the generation's time over theirs is what
choosing, accepting and writing text add. Wants a quiet machine.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from peers.bare_rounds import bare_seconds, rounds_of
from peers.figures import Spread, Target
from peers.machine import cpu_time, describe
from peers.report import cell, doubts, targets_table
from speculation_equality import Prompt, prompts_of

from edgeskip.errors import EdgeSkipError
from edgeskip.files import replace_file
from edgeskip.runtime.engines.interface import DraftingEngine
from edgeskip.runtime.speculation.policy import Speculation

if TYPE_CHECKING:
    from edgeskip.runtime.session import Session

LOOP_BOUND = 1.05  # most that a round in the loop may take, of its drafts and its verification by themselves
AUTO_BOUND = 0.97  # least that auto may reach, of plain decoding
PAUSE_S = 0.05
WARM_UP = 8  # tokens
Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Setting:
    """One way to decode; `policy` None is plain decoding."""

    name: str
    policy: Speculation | None


@dataclass(frozen=True)
class Run:
    """One generation. `steps` tokens in `decode_s` seconds; `loop_s` of these in rounds, which `bare_s` repeat."""

    setting: str
    round: int
    prompt: str
    tokens: int
    steps: int
    decode_s: float
    speculation: dict[str, Any] | None = None
    loop_s: float | None = None
    bare_s: float | None = None


@dataclass(frozen=True)
class Row:
    """A setting's figures over all prompts, by round; `ratio` is to plain decoding."""

    setting: str
    tokens_per_s: Spread
    ratio: Spread
    acceptance: float | None = None  # of the tokens drafted; None where none were
    accepted_length: float | None = None  # tokens a round, besides the one that every round gives
    shares: tuple[float, float, float, float] | None = None  # of decode time: draft, verify, plain steps, the rest
    loop: Spread | None = None  # loop_s / bare_s


@dataclass(frozen=True)
class Result:
    """One artifact's part."""

    artifact: str
    label: str
    seconds: float
    others_cores: float | None
    rows: list[Row]
    runs: list[Run]


def bench_speculation(
    artifacts: Annotated[list[Path], typer.Argument(help="Artifact folders or .gguf files.")],
    num_speculations: Annotated[str, typer.Option(help="Tokens drafted a round, comma-separated.")] = "1,2,4,8,auto",
    drafter: Annotated[
        str, typer.Option(help="default, model, ngram, mixed; comma-separated. default: as `edgeskip run` chooses.")
    ] = "default",
    prompts: Annotated[int, typer.Option(min=1, help="Prompts, half of them code to continue.")] = 8,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens to generate, fewer where the text ends.")] = 96,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are over them.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads (default: the physical cores).")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything there, single runs too.")] = None,
) -> None:
    """Measure speculation by every setting against plain decoding of the same artifact; tables to stdout."""
    from edgeskip.runtime.session import load

    settings = settings_of(drafter.split(","), num_speculations.split(","))
    chosen = read_prompts(prompts)
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
            results.append(Result(path.name, session.label, seconds, others, rows_of(settings, runs), runs))
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


def settings_of(drafters: Sequence[str], counts: Sequence[str]) -> list[Setting]:
    """Plain decoding first, then every drafter with every count. EdgeSkipError for what is neither."""
    found = [Setting("plain", None)]
    for drafter in drafters:
        for count in counts:
            if count != "auto" and not count.isdecimal():
                raise EdgeSkipError(f"--num-speculations {count}: give numbers or auto")
            number: Any = "auto" if count == "auto" else int(count)
            who: Any = None if drafter == "default" else drafter
            name = "auto" if count == "auto" else f"γ {count}"
            found.append(Setting(name if who is None else f"{drafter} {name}", Speculation(who, number)))
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
            for setting in [*settings[shift:], *settings[:shift]]:
                time.sleep(PAUSE_S)
                runs.append(run_once(session, setting, number, prompt, ids[at], tokens))
    return runs


def run_once(session: Session, setting: Setting, number: int, prompt: Prompt, ids: Tokens, tokens: int) -> Run:
    policy = setting.policy
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
            loop_s = stats.decode_s - found.plain_s
            bare_s = bare_seconds(engine, ids, rounds, len(ids) + tokens)
    return Run(
        setting.name, number, prompt.name, len(generation.tokens), steps, stats.decode_s,
        asdict(found) if found else None, loop_s, bare_s,
    )  # fmt: skip


def rows_of(settings: Sequence[Setting], runs: Sequence[Run]) -> list[Row]:
    """A row per setting, in their order."""
    numbers = sorted({run.round for run in runs})

    def speeds(name: str) -> list[float]:
        some = [[run for run in runs if (run.setting, run.round) == (name, number)] for number in numbers]
        return [sum(run.steps for run in one) / sum(run.decode_s for run in one) for one in some]

    plain = speeds(settings[0].name)
    rows = []
    for setting in settings:
        own = [run for run in runs if run.setting == setting.name]
        speed = speeds(setting.name)
        ratio = Spread.of(a / b for a, b in zip(speed, plain, strict=True))
        rows.append(Row(setting.name, Spread.of(speed), ratio, **counts_of(own), loop=loop_of(own, numbers)))
    return rows


def counts_of(runs: Sequence[Run]) -> dict[str, Any]:
    """Acceptance and shares of time over all runs of one setting."""
    found = [run.speculation for run in runs if run.speculation is not None]
    if not found:
        return {}
    total = {key: sum(one[key] for one in found) for key in ("rounds", "drafted", "accepted")}
    decode_s = sum(run.decode_s for run in runs)
    parts = ("draft_s", "verify_s", "plain_s", "overhead_s")
    return {
        "acceptance": total["accepted"] / total["drafted"] if total["drafted"] else None,
        "accepted_length": total["accepted"] / total["rounds"] if total["rounds"] else None,
        "shares": tuple(sum(one[part] for one in found) / decode_s for part in parts),
    }


def loop_of(runs: Sequence[Run], numbers: Sequence[int]) -> Spread | None:
    timed = [run for run in runs if run.loop_s is not None and run.bare_s is not None]
    by_round = [[run for run in timed if run.round == number] for number in numbers]
    if not all(by_round):
        return None
    return Spread.of(sum(r.loop_s or 0.0 for r in some) / sum(r.bare_s or 0.0 for r in some) for some in by_round)


def targets_of(result: Result) -> list[Target]:
    targets = []
    for row in result.rows:
        if row.loop:
            what = f"{result.artifact}, {row.setting}: a round in the loop over its drafts and verification alone"
            targets.append(Target(what, LOOP_BOUND, row.loop, at_least=False))
        if row.setting.endswith("auto"):
            targets.append(
                Target(f"{result.artifact}, {row.setting}: speed over plain decoding", AUTO_BOUND, row.ratio)
            )
    return targets


def as_markdown(results: Sequence[Result], setting: dict[str, Any]) -> list[str]:
    """A table per artifact."""
    machine = setting["machine"]
    lines = [
        f"{len(setting['prompts'])} prompts, up to {setting['tokens']} tokens, {setting['threads']} threads, medians "
        f"of {setting['rounds']} interleaved rounds [least – greatest]; {machine['processor']}, "
        f"{machine['usable_cores']} cores",
    ]
    for result in results:
        lines += [
            "",
            f"| {result.artifact} ({result.label}) | tok/s | ÷ plain | accepted | a round | draft | verify "
            "| plain steps | rest | loop ÷ bare |",
            "|---" * 10 + "|",
        ]
        for row in result.rows:
            cells = [row.setting, cell(row.tokens_per_s, 1), cell(row.ratio, 3)]
            cells.append("" if row.acceptance is None else f"{row.acceptance:.1%}")
            cells.append("" if row.accepted_length is None else f"{row.accepted_length:.2f}")
            cells += [f"{share:.1%}" for share in row.shares] if row.shares else [""] * 4
            cells.append(cell(row.loop, 3) if row.loop else "")
            lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(bench_speculation)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
