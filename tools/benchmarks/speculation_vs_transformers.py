"""Self-speculation against transformers' own, `assistant_early_exit`: same checkpoint, exit layer, γ, prompts, threads.

    python tools/benchmarks/speculation_vs_transformers.py --checkpoint MODEL --artifact DIR --exit-layer 8

Every turn is a process of its own that loads, warms up and generates from all prompts: transformers' `generate` in
float32 on the CPU with and without early exit, and each artifact with and without speculation. Sides alternate, and
who is first changes by round; ratios are of decode tokens/s (of what follows the first delivery) and paired by round.
Both sides are greedy, ignore end tokens and write the same number of tokens.

transformers drafts through the model's own norm and head, so an artifact drafts the same tokens if it was exported with
the plain head. It reads num_assistant_tokens and its schedule and threshold from the *model's* generation_config; as
arguments of `generate` they are ignored (transformers 4.57 and 5.23, AssistedCandidateGenerator). Its draft has a KV
cache of its own, and the whole model computes the first blocks again. Wants a quiet machine.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from gguf_plans import check_names
from harness.afresh import WORD, answer, ask_afresh
from harness.assisted import by_edgeskip, by_transformers
from harness.figures import Spread, Target, agreement
from harness.machine import cpu_time, describe
from harness.models import checkpoint_folder
from harness.report import cell, doubts, targets_table
from peer_runtimes import default_work
from speculation import prompt_ids, read_prompts

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import replace_file

BOUND = 3.0  # least that our speed may be, of transformers' with the same γ
PEER = "transformers"
PAUSE_S = 0.3
WARM_UP = 8  # tokens
PACKAGES = ("transformers", "torch", "onnxruntime")


@dataclass(frozen=True)
class Side:
    """Who generates: transformers or one of our artifacts, `gamma` tokens drafted a round, 0 = plain decoding."""

    name: str
    path: Path
    gamma: int

    @property
    def peer(self) -> bool:
        return self.name == PEER


@dataclass(frozen=True)
class Turn:
    """All prompts once: `steps` tokens in `decode_s` seconds; `texts` are the ids written, prompt by prompt."""

    steps: int
    decode_s: float
    drafted: int
    accepted: int
    texts: list[list[int]]
    others_cores: float | None
    versions: dict[str, str]

    @property
    def tokens_per_s(self) -> float:
        return self.steps / self.decode_s


@dataclass(frozen=True)
class Row:
    side: Side
    tokens_per_s: Spread
    over_peer: Spread | None  # our speed over transformers' with the same γ
    over_plain: Spread  # over the same side's plain decoding
    acceptance: float | None
    same: list[int]  # of each prompt: greedy tokens as transformers' plain ones before the first that is not


def bench_assisted(
    checkpoint: Annotated[str, typer.Option(help="Hugging Face folder, or a model as `calibrate` takes it.")],
    artifact: Annotated[list[Path], typer.Option(help="Early-exit artifact of it, fp32; repeatable.")],
    exit_layer: Annotated[int, typer.Option(min=1, help="Blocks that draft.")],
    num_speculations: Annotated[str, typer.Option(help="Tokens drafted a round, comma-separated.")] = "1,2,4,8",
    prompts: Annotated[int, typer.Option(min=1, help="Prompts, half of them code to continue.")] = 6,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens to generate from each.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are over them.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Threads of everything.")] = 2,
    python: Annotated[
        Path | None, typer.Option(help="Interpreter with another transformers and with edgeskip.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything there.")] = None,
) -> None:
    """Measure self-speculation against transformers' assistant_early_exit; a table to stdout, progress to stderr."""
    counts = num_speculations.split(",")
    if not all(count.isdecimal() and int(count) for count in counts):
        raise EdgeSkipError(f"--num-speculations {num_speculations}: give numbers from 1")
    check_names([PEER, *(path.name for path in artifact)])
    chosen = read_prompts(prompts)
    ids = _ids(artifact, exit_layer, chosen, tokens)
    folder = Path(checkpoint) if Path(checkpoint).is_dir() else checkpoint_folder(checkpoint, default_work())
    named = {PEER: folder, **{path.name: path for path in artifact}}
    gammas = [0, *map(int, counts)]
    sides = [Side(name, path.resolve(), gamma) for gamma in gammas for name, path in named.items()]
    turns: dict[Side, list[Turn]] = {side: [] for side in sides}
    begin = time.perf_counter()
    for number in range(1, rounds + 1):
        for side in sides if number % 2 else reversed(sides):
            time.sleep(PAUSE_S)
            request = {
                "peer": side.peer,
                "path": str(side.path),
                "gamma": side.gamma,
                "exit_layer": exit_layer,
                "prompts": ids,
                "tokens": tokens,
                "threads": threads,
            }
            reply = ask_afresh(Path(__file__), request, threads=threads, python=python if side.peer else None)
            turns[side].append(Turn(**reply))
            speed = turns[side][-1].tokens_per_s
            print(f"round {number}  {side.name} γ {side.gamma}: {speed:.1f} tok/s", file=sys.stderr, flush=True)
    rows = rows_of(turns)
    targets = targets_of(rows)
    setting = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": time.perf_counter() - begin,
        "checkpoint": checkpoint,
        "exit_layer": exit_layer,
        "prompts": [prompt.name for prompt in chosen],
        "tokens": tokens,
        "rounds": rounds,
        "threads": threads,
        "machine": describe(),
        "versions": {name: found for some in turns.values() for name, found in some[0].versions.items()},
    }
    if json_file:
        result = as_json(rows, turns, targets, setting)
        replace_file(json_file, (json.dumps(result, indent=1, default=str) + "\n").encode())
    doubtful = doubts(turn.others_cores for some in turns.values() for turn in some)
    print("\n".join([*as_markdown(rows, setting), "", *targets_table(targets), *doubtful]))


def _ids(artifacts: Sequence[Path], exit_layer: int, prompts: Sequence[Any], tokens: int) -> list[list[int]]:
    """Every prompt's ids. EdgeSkipError where an artifact has not this exit."""
    from edgeskip.runtime.session import load

    found: list[list[int]] = []
    for path in artifacts:
        with load(path) as session:
            layers = [draft.exit_layer for draft in session.drafts if draft.exit_layer]
            if exit_layer not in layers:
                known = ", ".join(map(str, layers)) or "none"
                raise EdgeSkipError(f"{path} has no exit after {exit_layer} blocks; its exits: {known}")
            found = found or [prompt_ids(session, prompt, tokens).tolist() for prompt in prompts]
    return found


def work(request: dict[str, Any]) -> dict[str, Any]:
    """The worker: one turn, as `Turn` has it."""
    open_side = by_transformers if request["peer"] else by_edgeskip
    generate = open_side(Path(request["path"]), request["exit_layer"], request["gamma"], request["threads"])
    prompts, tokens = request["prompts"], request["tokens"]
    generate(prompts[0], min(WARM_UP, tokens))
    before, begin = cpu_time(os.getpid()), time.perf_counter()
    runs = [generate(prompt, tokens) for prompt in prompts]
    after, seconds = cpu_time(os.getpid()), time.perf_counter() - begin
    total = {key: sum(run[key] for run in runs) for key in ("steps", "decode_s", "drafted", "accepted")}
    return total | {
        "texts": [run["tokens"] for run in runs],
        "others_cores": after.others_since(before, seconds) if before and after else None,
        "versions": {name: version(name) for name in PACKAGES if name in sys.modules},
    }


def rows_of(turns: Mapping[Side, Sequence[Turn]]) -> list[Row]:
    """A row per side, ratios paired by round."""
    peers = {side.gamma: some for side, some in turns.items() if side.peer}
    plain = {side.name: some for side, some in turns.items() if not side.gamma}

    def ratio(some: Sequence[Turn], others: Sequence[Turn]) -> Spread:
        return Spread.of(a.tokens_per_s / b.tokens_per_s for a, b in zip(some, others, strict=True))

    rows = []
    for side, some in turns.items():
        drafted, accepted = some[0].drafted, some[0].accepted
        same = [agreement(a, b) for a, b in zip(some[0].texts, peers[0][0].texts, strict=True)]
        over_peer = None if side.peer else ratio(some, peers[side.gamma])
        speed = Spread.of(turn.tokens_per_s for turn in some)
        acceptance = accepted / drafted if drafted else None
        rows.append(Row(side, speed, over_peer, ratio(some, plain[side.name]), acceptance, same))
    return rows


def targets_of(rows: Sequence[Row]) -> list[Target]:
    return [
        Target(f"{row.side.name}, γ {row.side.gamma}: speed over assistant_early_exit", BOUND, row.over_peer)
        for row in rows
        if row.over_peer and row.side.gamma
    ]


def as_json(
    rows: Sequence[Row], turns: Mapping[Side, Sequence[Turn]], targets: Sequence[Target], setting: dict[str, Any]
) -> dict[str, Any]:
    return {
        "setting": setting,
        "rows": [{**asdict(row), "turns": [asdict(turn) for turn in turns[row.side]]} for row in rows],
        "targets": [{**asdict(target), "met": target.met} for target in targets],
    }


def as_markdown(rows: Sequence[Row], setting: dict[str, Any]) -> list[str]:
    machine, count = setting["machine"], len(setting["prompts"])
    lines = [
        f"exit layer {setting['exit_layer']}, {count} prompts, {setting['tokens']} tokens each, float32, "
        f"{setting['threads']} threads, medians of {setting['rounds']} interleaved rounds [least – greatest]; "
        f"{machine['processor']}, {machine['usable_cores']} cores; "
        + ", ".join(f"{name} {version}" for name, version in setting["versions"].items()),
        "",
        "| | γ | tok/s | ÷ transformers, same γ | ÷ own plain | accepted | texts as transformers' plain |",
        "|---|---:|---|---|---|---:|---:|",
    ]
    for row in rows:
        cells = [
            row.side.name,
            str(row.side.gamma) if row.side.gamma else "plain",
            cell(row.tokens_per_s, 1),
            cell(row.over_peer, 2) if row.over_peer else "",
            cell(row.over_plain, 3),
            "" if row.acceptance is None else f"{row.acceptance:.1%}",
            f"{sum(same == setting['tokens'] for same in row.same)} of {count}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    if sys.argv[1:] == [WORD]:
        answer(work)
        sys.exit()
    try:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command()(bench_assisted)
        app()
    except EdgeSkipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
