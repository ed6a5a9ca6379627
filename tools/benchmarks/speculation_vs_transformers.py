"""Self-speculation against transformers' own, `assistant_early_exit`: same checkpoint, exit layer, γ, prompts, threads.

    python tools/benchmarks/speculation_vs_transformers.py --checkpoint MODEL --artifact DIR --exit-layer 8

Makes a figure of docs/results/speculation.md. Every turn is a process of its own that loads, warms up and generates
from all prompts: transformers' `generate` in float32 on the CPU with and without early exit, and each artifact with and
without speculation. Ratios are of decode tokens/s (of what follows the first delivery) and paired by round. Both sides
are greedy, ignore end tokens and write the same number of tokens.

transformers drafts through the model's own norm and head, so an artifact drafts the same tokens if it was exported with
the plain head. It reads num_assistant_tokens and its schedule and threshold from the *model's* generation_config; as
arguments of `generate` they are ignored (transformers 4.57 and 5.23, AssistedCandidateGenerator). Its draft has a KV
cache of its own, and the whole model computes the first blocks again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from harness.command import JsonFile, Rounds, Threads, cache_folder, check_names, main
from harness.peers import checkpoint_folder
from harness.processes import ask_afresh, others_cores, take_turns
from harness.prompts import Prompt, read_prompts
from harness.results import Results, Spread, Table, Target, versions_of
from harness.runtimes import agreement

from edgeskip.core.errors import EdgeSkipError

BOUND = 3.0  # least that our speed may be, of transformers' with the same γ
PEER = "transformers"
WARM_UP = 8  # tokens
Generate = Callable[[list[int], int], dict[str, Any]]
"""From a prompt's ids and the number of tokens to write: the `tokens` written, `steps` of them in `decode_s` seconds,
and tokens `drafted` and `accepted`."""


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

    def __str__(self) -> str:
        return f"{self.tokens_per_s:.1f} tok/s"


def speculation_vs_transformers(
    checkpoint: Annotated[str, typer.Option(help="Hugging Face folder, or a model as `calibrate` takes it.")],
    artifact: Annotated[list[Path], typer.Option(help="Early-exit artifact of it, fp32; repeatable.")],
    exit_layer: Annotated[int, typer.Option(min=1, help="Blocks that draft.")],
    num_speculations: Annotated[str, typer.Option(help="Tokens drafted a round, by comma.")] = "1,2,4,8",
    prompts: Annotated[int, typer.Option(min=1, help="Prompts, half of them code to continue.")] = 6,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens to generate from each.")] = 64,
    rounds: Rounds = 3,
    threads: Threads = 2,
    python: Annotated[
        Path | None, typer.Option(help="Interpreter with another transformers and with edgeskip.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Measure self-speculation against transformers' assistant_early_exit; a table to stdout, progress to stderr."""
    counts = num_speculations.split(",")
    if not all(count.isdecimal() and int(count) for count in counts):
        raise EdgeSkipError(f"--num-speculations {num_speculations}: give numbers from 1")
    check_names([PEER, *(path.name for path in artifact)])
    chosen = read_prompts(prompts)
    ids = _ids(artifact, exit_layer, chosen, tokens)
    folder = Path(checkpoint) if Path(checkpoint).is_dir() else checkpoint_folder(checkpoint, cache_folder())
    named = {PEER: folder, **{path.name: path for path in artifact}}
    sides = [Side(name, path.resolve(), gamma) for gamma in [0, *map(int, counts)] for name, path in named.items()]

    def turn(side: Side) -> Turn:
        request = {"peer": side.peer, "path": str(side.path), "gamma": side.gamma, "exit_layer": exit_layer}
        request |= {"prompts": ids, "tokens": tokens, "threads": threads}
        return Turn(**ask_afresh(Path(__file__), request, threads=threads, python=python if side.peer else None))

    cells = {f"{side.name} γ {side.gamma}": partial(turn, side) for side in sides}
    turns = dict(zip(sides, take_turns(cells, rounds=rounds).values(), strict=True))
    rows = rows_of(turns)
    Results(
        name="speculation_vs_transformers",
        setting={
            "checkpoint": checkpoint, "exit_layer": exit_layer, "prompts": len(chosen), "tokens": tokens,
            "rounds": rounds, "threads": threads, "prompt_names": [prompt.name for prompt in chosen],
        },
        tables=[table_of(rows)],
        targets=targets_of(rows),
        data=[{**row, "turns": some} for row, some in zip(rows, turns.values(), strict=True)],
        others_cores=[turn.others_cores for some in turns.values() for turn in some],
        versions={name: found for some in turns.values() for name, found in some[0].versions.items()},
    ).publish(json_file)  # fmt: skip


def _ids(artifacts: Sequence[Path], exit_layer: int, prompts: Sequence[Prompt], tokens: int) -> list[list[int]]:
    """Return every prompt's ids. Raises EdgeSkipError if an artifact does not have this exit."""
    from edgeskip.runtime.session import load

    found: list[list[int]] = []
    for path in artifacts:
        with load(path) as session:
            layers = [draft.exit_layer for draft in session.drafts if draft.exit_layer]
            if exit_layer not in layers:
                known = ", ".join(map(str, layers)) or "none"
                raise EdgeSkipError(f"{path} has no exit after {exit_layer} blocks; its exits: {known}")
            found = found or [prompt.ids(session, tokens).tolist() for prompt in prompts]
    return found


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Return the worker: one turn, as `Turn` has it."""
    open_side = by_transformers if request["peer"] else by_edgeskip
    generate = open_side(Path(request["path"]), request["exit_layer"], request["gamma"], request["threads"])
    prompts, tokens = request["prompts"], request["tokens"]
    generate(prompts[0], min(WARM_UP, tokens))
    with others_cores() as others:
        runs = [generate(prompt, tokens) for prompt in prompts]
    total = {key: sum(run[key] for run in runs) for key in ("steps", "decode_s", "drafted", "accepted")}
    packages = ("transformers", "torch") if request["peer"] else ("onnxruntime",)
    return total | {
        "texts": [run["tokens"] for run in runs],
        "others_cores": others[0],
        "versions": versions_of(packages),
    }


def by_edgeskip(path: Path, exit_layer: int, gamma: int, threads: int) -> Generate:
    """Return an early-exit artifact; `gamma` 0 = plain decoding."""
    from edgeskip.runtime.session import load
    from edgeskip.runtime.speculation.policy import Speculation

    session = load(path, threads=threads)
    session.end_tokens = frozenset()
    policy = Speculation("model", max(gamma, 1), exit_layer=exit_layer)

    def generate(prompt: list[int], tokens: int) -> dict[str, Any]:
        strategy: Any = "speculative" if gamma else "plain"
        generation = session.generate(prompt, max_tokens=tokens, strategy=strategy, speculation=policy)
        counts = generation.stats.speculation
        return {
            "tokens": list(generation.tokens),
            "steps": len(generation.tokens) - 1,
            "decode_s": generation.stats.decode_s,
            "drafted": counts.drafted if counts else 0,
            "accepted": counts.accepted if counts else 0,
        }

    return generate


def by_transformers(path: Path, exit_layer: int, gamma: int, threads: int) -> Generate:
    """Return the checkpoint in float32 through `generate`; its early exit is the model's own norm and head."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    model.eval()
    config = model.generation_config
    config.eos_token_id, config.pad_token_id = None, 0
    config.num_assistant_tokens = max(gamma, 1)  # read from here alone
    config.num_assistant_tokens_schedule = "constant"
    config.assistant_confidence_threshold = 0.0
    early_exit = {"assistant_early_exit": exit_layer} if gamma else {}

    def generate(prompt: list[int], tokens: int) -> dict[str, Any]:
        watch = Deliveries()
        ids = torch.tensor([prompt])
        settings = {"max_new_tokens": tokens, "do_sample": False, "attention_mask": torch.ones_like(ids)}
        with torch.inference_mode():
            model.generate(ids, streamer=watch, **settings, **early_exit)
        return watch.result(len(prompt), tokens, gamma)

    return generate


class Deliveries:
    """A transformers streamer: which tokens came when. The first delivery is the prompt, each later one a round's."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.parts: list[list[int]] = []

    def put(self, value: Any) -> None:
        self.parts.append(np.asarray(value).reshape(-1).tolist())
        self.times.append(time.perf_counter())

    def end(self) -> None: ...

    def result(self, prompt: int, tokens: int, gamma: int) -> dict[str, Any]:
        """`steps` and `decode_s` are of what came after the first round, which holds the prompt's run."""
        parts = self.parts[1:]
        counts = [len(part) for part in parts]
        if len(self.parts[0]) != prompt or sum(counts) != tokens:
            raise EdgeSkipError(f"transformers gave {sum(counts)} tokens, not {tokens}")
        before = np.cumsum([0, *counts])[:-1]
        return {
            "tokens": [token for part in parts for token in part],
            "steps": tokens - counts[0],
            "decode_s": self.times[-1] - self.times[1],
            "drafted": int(sum(min(gamma, tokens - int(done) - 1) for done in before)),
            "accepted": sum(counts) - len(counts),
        }


def rows_of(turns: Mapping[Side, Sequence[Turn]]) -> list[dict[str, Any]]:
    """Return a row per side. Ratios are paired by round: to transformers with the same γ, and to the side's own plain
    decoding; `same` counts each prompt's greedy tokens as transformers' plain ones before the first that is not."""
    speeds = {side: [turn.tokens_per_s for turn in some] for side, some in turns.items()}
    peers = {side.gamma: side for side in turns if side.peer}
    plain = {side.name: side for side in turns if not side.gamma}
    expected = turns[peers[0]][0].texts
    return [
        {
            "name": side.name,
            "gamma": side.gamma,
            "tokens_per_s": Spread.of(speeds[side]),
            "over_peer": None if side.peer else Spread.of_ratios(speeds[side], speeds[peers[side.gamma]]),
            "over_plain": Spread.of_ratios(speeds[side], speeds[plain[side.name]]),
            "acceptance": some[0].accepted / some[0].drafted if some[0].drafted else None,
            "same": [agreement(a, b) for a, b in zip(some[0].texts, expected, strict=True)],
            "tokens": len(expected[0]),
        }
        for side, some in turns.items()
    ]


def targets_of(rows: Sequence[Mapping[str, Any]]) -> list[Target]:
    return [
        Target(f"{row['name']}, γ {row['gamma']}: speed over assistant_early_exit", BOUND, row["over_peer"])
        for row in rows
        if row["over_peer"] and row["gamma"]
    ]


def table_of(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = ["", "γ", "tok/s", "÷ transformers, same γ", "÷ own plain", "accepted", "texts as transformers' plain"]
    lines = [
        [
            row["name"],
            str(row["gamma"] or "plain"),
            row["tokens_per_s"].text(1),
            row["over_peer"].text(2) if row["over_peer"] else "",
            row["over_plain"].text(3),
            "" if row["acceptance"] is None else f"{row['acceptance']:.1%}",
            f"{sum(same == row['tokens'] for same in row['same'])} of {len(row['same'])}",
        ]
        for row in rows
    ]
    return Table("Against transformers' assistant_early_exit", columns, lines)


if __name__ == "__main__":
    main(speculation_vs_transformers, worker=work)
